#ifndef BLOCK_NBD_PROTO_H
#define BLOCK_NBD_PROTO_H

/*
 * The NBD protocol's numbers, by the names that its specification gives them
 * (doc/proto.md of the NBD project). All integers on the wire are big-endian.
 */

/* ---- handshake ------------------------------------------------------------------ */

#define NBD_MAGIC      0x4e42444d41474943u /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC 0x49484156454f5054u /* "IHAVEOPT" */
#define NBD_REP_MAGIC  0x0003e889045565a9u

#define NBD_FLAG_FIXED_NEWSTYLE   (1u << 0) /* both ways */
#define NBD_FLAG_NO_ZEROES        (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES      (1u << 1)

/* clang-format off */
#define NBD_OPTIONS(X)                                                      \
    X(EXPORT_NAME,       1, "export name")                                  \
    X(ABORT,             2, "abort")                                        \
    X(LIST,              3, "list")                                         \
    X(STARTTLS,          5, "starttls")                                     \
    X(INFO,              6, "info")                                         \
    X(GO,                7, "go")                                           \
    X(STRUCTURED_REPLY,  8, "structured reply")                             \
    X(LIST_META_CONTEXT, 9, "list meta context")                            \
    X(SET_META_CONTEXT, 10, "set meta context")
/* clang-format on */

#define NBD_OPTION_ENUM(id, number, text) NBD_OPT_##id = number,
enum nbd_option { NBD_OPTIONS(NBD_OPTION_ENUM) };

enum nbd_rep {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};

#define NBD_REP_ERR(n)       ((1u << 31) + (n))
#define NBD_REP_ERR_UNSUP    NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY   NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID  NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN  NBD_REP_ERR(6)
#define NBD_REP_ERR_TOO_BIG  NBD_REP_ERR(9)

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

/* Longest name, description or query: the specification's advice. */
#define NBD_MAX_STRING 4096u

/* ---- transmission ---------------------------------------------------------------- */

#define NBD_FLAG_HAS_FLAGS         (1u << 0)
#define NBD_FLAG_READ_ONLY         (1u << 1)
#define NBD_FLAG_SEND_FLUSH        (1u << 2)
#define NBD_FLAG_SEND_FUA          (1u << 3)
#define NBD_FLAG_ROTATIONAL        (1u << 4)
#define NBD_FLAG_SEND_TRIM         (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_SEND_DF           (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN    (1u << 8)
#define NBD_FLAG_SEND_RESIZE       (1u << 9)
#define NBD_FLAG_SEND_CACHE        (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO    (1u << 11)

#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA       (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE   (1u << 1)
#define NBD_CMD_FLAG_DF        (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE   (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1u << 4)

#define NBD_REPLY_FLAG_DONE         (1u << 0)
#define NBD_REPLY_TYPE_NONE         0u
#define NBD_REPLY_TYPE_OFFSET_DATA  1u
#define NBD_REPLY_TYPE_OFFSET_HOLE  2u
#define NBD_REPLY_TYPE_BLOCK_STATUS 5u
#define NBD_REPLY_TYPE_ERROR        ((1u << 15) + 1)

enum nbd_error {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

#define NBD_STATE_HOLE  (1u << 0) /* base:allocation */
#define NBD_STATE_ZERO  (1u << 1)
#define NBD_STATE_DIRTY (1u << 0) /* qemu:dirty-bitmap: */

#define NBD_DEFAULT_PORT 10809

#endif
