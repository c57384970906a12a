#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/options.h"
#include "cmd/nbd/nbd.h"
#include "cmd/objects.h"
#include "lib/base/base.h"

/* The command line. */

enum {
    OPT_CACHE = 256,
    OPT_AIO,
    OPT_DISCARD,
    OPT_DETECT_ZEROES,
    OPT_OBJECT,
    OPT_TLS_CREDS,
    OPT_TLS_HOSTNAME,
    OPT_TLS_AUTHZ,
    OPT_IMAGE_OPTS,
    OPT_FORK,
    OPT_PID_FILE,
    OPT_SELINUX,
    OPT_HANDSHAKE,
    OPT_FUSE,
    OPT_FUSE_GROWABLE,
    OPT_FUSE_ALLOW_OTHER,
};

static void help(const struct nbd_args *a)
{
    printf(
        "Usage: %s [OPTIONS] FILE\n"
        "  or:  %s -L [OPTIONS]\n"
        "  or:  %s --fuse MOUNTPOINT [OPTIONS] FILE\n"
        "Serve a disk image of any format to NBD clients, or as a raw file\n"
        "\n"
        "  -h, --help                this text\n"
        "  -V, --version             which version this is\n"
        "\n"
        "Where to listen:\n"
        "  -p, --port=PORT           TCP port (default `10809')\n"
        "  -b, --bind=IFACE          TCP address (default `0.0.0.0')\n"
        "  -k, --socket=PATH         UNIX socket instead of TCP\n"
        "  -e, --shared=NUM          clients at a time (default `1'; 0: any number)\n"
        "  -t, --persistent          stay when the last client has gone\n"
        "  -v, --verbose             say on standard error what clients do wrong\n"
        "  -x, --export-name=NAME    name of the export (default: the empty one)\n"
        "  -D, --description=TEXT    tell clients this about it\n"
        "      --handshake-limit=N   seconds for a client's handshake (default 10;\n"
        "                            0: any time)\n"
        "\n"
        "What of the image:\n"
        "  -o, --offset=OFFSET       from this byte on\n"
        "  -A, --allocation-depth    also which layer has the data\n"
        "  -B, --bitmap=NAME         also a dirty bitmap of the image\n"
        "\n",
        a->prog, a->prog, a->prog);
    printf(
        "Instead of serving:\n"
        "  -L, --list                list the exports of another server\n"
        "      --fuse=MOUNTPOINT     let the regular file MOUNTPOINT show the image's\n"
        "                            content (FUSE) until the program ends\n"
        "      --fuse-growable       it may grow by writing behind its end\n"
        "      --fuse-allow-other    other users may open it, too\n"
        "\n"
        "General:\n"
        "      --object type,id=ID,...\n"
        "                            secret, tls-creds-x509, tls-creds-psk,\n"
        "                            tls-creds-anon, authz-simple, authz-list,\n"
        "                            authz-list-file\n"
        "      --tls-creds=ID        nothing but TLS, with these credentials\n"
        "      --tls-authz=ID        who may come in\n"
        "      --tls-hostname=NAME   with -L: whose certificate is expected\n"
        "  -T, --trace ...           accepted, without effect\n"
        "      --fork                go to the background once the server is ready\n"
        "      --pid-file=PATH       write the server's process ID there\n"
        "      --selinux-label=LABEL refused: there is no SELinux support\n"
        "\n"
        "The kernel's NBD client:\n"
        "  -c, --connect=DEV         make FILE the block device DEV (/dev/nbd0...)\n"
        "  -d, --disconnect          end that of a device, which stands for FILE\n"
        "\n"
        "How to open the image:\n"
        "  -f, --format=FORMAT       raw, qcow2... (default: what it looks like)\n"
        "  -r, --read-only           clients may not change it\n"
        "  -s, --snapshot            changes go to a temporary file and are lost\n"
        "  -l, --load-snapshot=SNAPSHOT\n"
        "                            what an internal snapshot has, read-only:\n"
        "                            ID_OR_NAME, or snapshot.id=ID,snapshot.name=NAME\n"
        "  -n, --nocache             as --cache=none\n"
        "      --cache=MODE          none, writeback (default), writethrough,\n"
        "                            directsync or unsafe\n"
        "      --aio=MODE            native, io_uring or threads\n"
        "      --discard=MODE        ignore (default) or unmap\n"
        "      --detect-zeroes=MODE  off (default), on or unmap\n"
        "      --image-opts          FILE is driver=...,key=value\n");
}

static bool bad(const struct nbd_args *a, int *ret_code, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static bool bad(const struct nbd_args *a, int *ret_code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    nbd_error(a, "%s", text);
    *ret_code = 1;
    return false;
}

static bool one_of(const char *text, const char *const *names)
{
    return g_strv_contains(names, text);
}

static bool take_offset(struct nbd_args *a, const char *text, int *ret_code)
{
    char *end;
    errno = 0;
    a->offset = strtoull(text, &end, 0);
    a->offset_negative = (int64_t)a->offset < 0;
    return (end != text && *end == '\0' && errno == 0) ||
           bad(a, ret_code, "Invalid offset '%s'", text);
}

static bool take_number(const struct nbd_args *a, const char *text, const char *what,
                        unsigned *ret, int *ret_code)
{
    guint64 n;
    char *end;
    n = g_ascii_strtoull(text, &end, 0);
    if (*text == '-' || end == text || *end || n > INT32_MAX) {
        return bad(a, ret_code, "Invalid %s '%s'", what, text);
    }
    *ret = (unsigned)n;
    return true;
}

static bool take_cache(struct nbd_args *a, const char *mode, int *ret_code)
{
    static const char *const modes[] = {
        "none", "off", "writeback", "writethrough", "directsync", "unsafe", NULL};
    if (a->cache) {
        return bad(a, ret_code, "-n and --cache can only be specified once");
    }
    if (!one_of(mode, modes)) {
        return bad(a, ret_code, "Invalid cache mode `%s'", mode);
    }
    a->cache = mode;
    return true;
}

static bool take_mode(struct nbd_args *a, int c, const char *mode, int *ret_code)
{
    static const char *const aios[] = {"native", "io_uring", "threads", NULL};
    static const char *const discards[] = {"ignore", "off", "unmap", "on", NULL};
    static const char *const detects[] = {"off", "on", "unmap", NULL};
    if (c == OPT_AIO) {
        if (a->aio) {
            return bad(a, ret_code, "--aio can only be specified once");
        }
        a->aio = mode;
        return one_of(mode, aios) || bad(a, ret_code, "Invalid aio mode '%s'", mode);
    }
    if (c == OPT_DISCARD) {
        if (a->discard) {
            return bad(a, ret_code, "--discard can only be specified once");
        }
        a->discard = mode;
        return one_of(mode, discards) ||
               bad(a, ret_code, "Invalid discard mode `%s'", mode);
    }
    if (!one_of(mode, detects)) {
        return bad(a, ret_code,
                   "Failed to parse detect_zeroes mode: invalid parameter value: %s",
                   mode);
    }
    a->detect_zeroes = mode;
    bool unmap = a->discard &&
                 (g_str_equal(a->discard, "unmap") || g_str_equal(a->discard, "on"));
    return !g_str_equal(mode, "unmap") || unmap ||
           bad(a, ret_code,
               "setting detect-zeroes to unmap is not allowed without setting discard "
               "operation to unmap");
}

static bool take_snapshot(struct nbd_args *a, const char *text, int *ret_code)
{
    a->load_snapshot = text;
    a->read_only = true;
    if (!g_str_has_prefix(text, "snapshot.")) {
        return true;
    }
    GError *error = NULL;
    const char *key;
    json_t *value, *o = blk_options_parse(text, NULL, &error);
    g_clear_error(&error);
    bool ok = o != NULL;
    json_object_foreach(o, key, value)
    {
        if (!g_str_equal(key, "snapshot.id") && !g_str_equal(key, "snapshot.name")) {
            nbd_error(a, "Invalid parameter '%s'", key);
            ok = false;
        }
    }
    json_decref(o);
    return ok || bad(a, ret_code, "Failed in parsing snapshot param `%s'", text);
}

static bool take(struct nbd_args *a, int c, int *ret_code)
{
    GError *error = NULL;
    switch (c) {
    case 'h': help(a); return false;
    case 'V': printf("%s version " LODGE_VERSION " (Lodge)\n", a->prog); return false;
    case '?':
        nbd_error(a, "Try `%s --help' for more information.", a->prog);
        *ret_code = 1;
        return false;
    case 'p': a->port = optarg; return true;
    case 'b': a->bind = optarg; return true;
    case 'k':
        a->socket = optarg;
        return *optarg == '/' || bad(a, ret_code, "socket path must be absolute");
    case 'e':
        return take_number(a, optarg, "shared device number", &a->shared, ret_code);
    case 't': a->persistent = true; return true;
    case 'v': a->verbose = true; return true;
    case 'x':
        a->export_name = optarg;
        return strlen(optarg) <= 4096 ||
               bad(a, ret_code, "export name '%s' too long", optarg);
    case 'D':
        a->description = optarg;
        return strlen(optarg) <= 4096 ||
               bad(a, ret_code, "export description '%s' too long", optarg);
    case 'o': return take_offset(a, optarg, ret_code);
    case 'A': a->allocation_depth = true; return true;
    case 'B':
        g_ptr_array_insert(a->bitmaps, (int)a->bitmaps->len - 1, optarg);
        return true;
    case 'L': a->list = true; return true;
    case 'f': a->format = optarg; return true;
    case 'r': a->read_only = true; return true;
    case 's': a->snapshot = true; return true;
    case 'l': return take_snapshot(a, optarg, ret_code);
    case 'n': return take_cache(a, "none", ret_code);
    case 'c': a->connect = optarg; return true;
    case 'd': a->disconnect = ""; return true;
    case 'T': return true;
    case OPT_CACHE: return take_cache(a, optarg, ret_code);
    case OPT_AIO:
    case OPT_DISCARD:
    case OPT_DETECT_ZEROES: return take_mode(a, c, optarg, ret_code);
    case OPT_OBJECT:
        if (!objects_add(a->secrets, optarg, &error)) {
            nbd_report(a, "", error);
            *ret_code = 1;
            return false;
        }
        return true;
    case OPT_TLS_CREDS: a->tls_creds = optarg; return true;
    case OPT_TLS_HOSTNAME: a->tls_hostname = optarg; return true;
    case OPT_TLS_AUTHZ: a->tls_authz = optarg; return true;
    case OPT_IMAGE_OPTS: a->image_opts = true; return true;
    case OPT_FORK: a->fork = true; return true;
    case OPT_PID_FILE: a->pid_file = optarg; return true;
    case OPT_SELINUX:
        return bad(a, ret_code, "Cannot set SELinux socket create context to %s: %s",
                   optarg, "no SELinux support");
    case OPT_HANDSHAKE:
        return take_number(a, optarg, "handshake limit", &a->handshake_secs, ret_code);
    case OPT_FUSE: a->fuse = optarg; return true;
    case OPT_FUSE_GROWABLE: a->fuse_growable = true; return true;
    case OPT_FUSE_ALLOW_OTHER: a->fuse_allow_other = true; return true;
    default: return true;
    }
}

/* What does not go together. */
static bool check_together(struct nbd_args *a, int left, int *ret_code)
{
    if (a->list) {
        if (left) {
            return bad(a, ret_code, "List mode is incompatible with a file name");
        }
        if (a->export_name || a->description || a->offset || a->connect ||
            a->disconnect || a->snapshot || a->allocation_depth ||
            a->bitmaps->len > 1 || a->fuse) {
            return bad(a, ret_code,
                       "List mode is incompatible with per-device settings");
        }
        if (a->fork) {
            return bad(a, ret_code, "List mode is incompatible with forking");
        }
        return true;
    }
    if (left != 1) {
        nbd_error(a, "Invalid number of arguments");
        fprintf(stderr, "Try `%s --help' for more information.\n", a->prog);
        *ret_code = 1;
        return false;
    }
    if (a->tls_hostname) {
        return bad(a, ret_code, "TLS hostname is only supported in list mode");
    }
    if (a->tls_authz && !a->tls_creds) {
        return bad(a, ret_code, "--tls-authz is not permitted without --tls-creds");
    }
    if (a->tls_creds && a->connect) {
        return bad(a, ret_code, "TLS is not supported with a host device");
    }
    if (a->image_opts && a->format) {
        return bad(a, ret_code, "--image-opts and -f are mutually exclusive");
    }
    if (!a->fuse && (a->fuse_growable || a->fuse_allow_other)) {
        return bad(a, ret_code, "--fuse-growable and --fuse-allow-other need --fuse");
    }
    if (a->fuse && (a->port || a->offset || a->allocation_depth ||
                    a->bitmaps->len > 1 || a->bind || a->socket || a->connect ||
                    a->tls_creds || a->export_name || a->description)) {
        return bad(a, ret_code, "--fuse is incompatible with options of NBD");
    }
    return true;
}

bool nbd_parse(struct nbd_args *a, int argc, char **argv, int *ret_code)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"version", no_argument, 0, 'V'},
        {"port", required_argument, 0, 'p'},
        {"bind", required_argument, 0, 'b'},
        {"socket", required_argument, 0, 'k'},
        {"shared", required_argument, 0, 'e'},
        {"persistent", no_argument, 0, 't'},
        {"verbose", no_argument, 0, 'v'},
        {"export-name", required_argument, 0, 'x'},
        {"description", required_argument, 0, 'D'},
        {"offset", required_argument, 0, 'o'},
        {"allocation-depth", no_argument, 0, 'A'},
        {"bitmap", required_argument, 0, 'B'},
        {"list", no_argument, 0, 'L'},
        {"format", required_argument, 0, 'f'},
        {"read-only", no_argument, 0, 'r'},
        {"snapshot", no_argument, 0, 's'},
        {"load-snapshot", required_argument, 0, 'l'},
        {"nocache", no_argument, 0, 'n'},
        {"connect", required_argument, 0, 'c'},
        {"disconnect", no_argument, 0, 'd'},
        {"trace", required_argument, 0, 'T'},
        {"cache", required_argument, 0, OPT_CACHE},
        {"aio", required_argument, 0, OPT_AIO},
        {"discard", required_argument, 0, OPT_DISCARD},
        {"detect-zeroes", required_argument, 0, OPT_DETECT_ZEROES},
        {"object", required_argument, 0, OPT_OBJECT},
        {"tls-creds", required_argument, 0, OPT_TLS_CREDS},
        {"tls-hostname", required_argument, 0, OPT_TLS_HOSTNAME},
        {"tls-authz", required_argument, 0, OPT_TLS_AUTHZ},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"fork", no_argument, 0, OPT_FORK},
        {"pid-file", required_argument, 0, OPT_PID_FILE},
        {"selinux-label", required_argument, 0, OPT_SELINUX},
        {"handshake-limit", required_argument, 0, OPT_HANDSHAKE},
        {"fuse", required_argument, 0, OPT_FUSE},
        {"fuse-growable", no_argument, 0, OPT_FUSE_GROWABLE},
        {"fuse-allow-other", no_argument, 0, OPT_FUSE_ALLOW_OTHER},
        {0},
    };
    /* getopt's own messages begin with this. */
    g_autofree char *name = g_strdup(a->prog);
    argv[0] = name;
    *ret_code = 0;
    bool ok = true;
    for (int c; ok && (c = getopt_long(argc, argv, "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L",
                                       longs, NULL)) != -1;) {
        ok = take(a, c, ret_code);
    }
    ok = ok && check_together(a, argc - optind, ret_code);
    if (ok && !a->list) {
        a->image = argv[optind];
    }
    if (a->disconnect) {
        a->disconnect = a->image;
    }
    return ok;
}
