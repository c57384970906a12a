#include "vmm/dev/virtio/virtio_devices.h"

#include <errno.h>
#include <string.h>

#include "block/blk.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/virtio/virtio.h"
#include "vmm/dev/virtio/virtio_mmio_priv.h"
#include "vmm/dev/virtio/virtio_pci.h"
#include "vmm/vm/vm.h"

/*
 * Block device (virtio 1.2, section 5.2).
 *
 * A request is a chain: 16 bytes of header {le32 type, le32 reserved, le64 sector},
 * data, one byte of status at the very end. Where segments are cut is the driver's
 * business (2.7.4.1): the header is taken from the front of the readable part, the
 * status is the last byte of the writable part, and what is left of either is data.
 *
 * Chains are taken and requests submitted on the drive's loop; done() comes there
 * too, writes the status, gives the chain back and interrupts if the driver wants
 * to know. Nothing waits. Many requests may be in flight, at most as many as the
 * queue has entries.
 */

enum {
    SECTOR = 512,
    HEADER = 16,
    ID_BYTES = 20,
    RANGE_BYTES = 16,   /* struct virtio_blk_discard_write_zeroes */
    SEG_MAX = 126,      /* data segments of a request that we promise to take */
    SEGS = SEG_MAX + 6, /* with header, status, and cuts at borders of RAM regions */
    FREE_MAX = 8,       /* requests kept for the next time */
};

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define F_SEG_MAX      (UINT64_C(1) << 2)
#define F_RO           (UINT64_C(1) << 5)
#define F_BLK_SIZE     (UINT64_C(1) << 6)
#define F_FLUSH        (UINT64_C(1) << 9)
#define F_TOPOLOGY     (UINT64_C(1) << 10)
#define F_CONFIG_WCE   (UINT64_C(1) << 11)
#define F_MQ           (UINT64_C(1) << 12)
#define F_DISCARD      (UINT64_C(1) << 13)
#define F_WRITE_ZEROES (UINT64_C(1) << 14)

/* struct virtio_blk_config (5.2.4). */
enum {
    CFG_CAPACITY = 0,
    CFG_SEG_MAX = 12,
    CFG_BLK_SIZE = 20,
    CFG_PHYSICAL_EXP = 24,
    CFG_MIN_IO = 26,
    CFG_OPT_IO = 28,
    CFG_WRITEBACK = 32,
    CFG_NUM_QUEUES = 34,
    CFG_MAX_DISCARD_SECTORS = 36,
    CFG_MAX_DISCARD_SEG = 40,
    CFG_DISCARD_ALIGN = 44,
    CFG_MAX_ZEROES_SECTORS = 48,
    CFG_MAX_ZEROES_SEG = 52,
    CFG_ZEROES_MAY_UNMAP = 56,
    CFG_LEN = 60,
};

struct vblk;

struct request {
    struct vblk *vblk;
    struct virtio_queue *queue;
    uint32_t generation;
    struct request *next; /* in the list of free ones */
    uint32_t written;     /* bytes of data the device writes when all goes well */
    struct virtq_chain chain;
    struct iovec iov[SEGS];
    gpa_t gpa[SEGS];
    struct iovec data[SEGS];
    struct blk_req blk;
};

struct vblk {
    struct virtio_device vdev;

    struct blk *drive;
    char *serial;
    uint64_t logical_block_size, physical_block_size;
    uint64_t min_io_size, opt_io_size, discard_granularity;
    uint32_t max_discard_sectors, max_zeroes_sectors;
    uint16_t num_queues, queue_size;
    bool discard, write_zeroes, config_wce;
    bool indirect_desc, event_idx;

    _Atomic bool write_cache; /* off: every write is durable when it completes */

    /* Of the loop's thread. */
    struct request *free;
    unsigned nb_free;
};

static struct request *request_get(struct vblk *b)
{
    struct request *r = b->free;
    if (r) {
        b->free = r->next;
        b->nb_free--;
        return r;
    }
    r = g_malloc(sizeof(*r));
    r->vblk = b;
    return r;
}

static void request_put(struct request *r)
{
    struct vblk *b = r->vblk;
    if (b->nb_free == FREE_MAX) {
        g_free(r);
        return;
    }
    r->next = b->free;
    b->free = r;
    b->nb_free++;
}

/* Give the chain back with @status. Caller holds the queue's lock. */
static void complete_locked(struct request *r, uint8_t status)
{
    struct virtq_chain *c = &r->chain;
    /* What the driver may look at: up to the status byte when data was written. */
    virtq_chain_write(c, c->in_len - 1, &status, 1);
    uint32_t written = status == S_OK ? r->written + 1 : 1;
    if (written < c->in_len) {
        /* The status lies behind bytes that we did not write. */
        const unsigned last = c->nb_out + c->nb_in - 1;
        gmem_written(r->queue->vq.gmem, c->gpa[last] + c->iov[last].iov_len - 1, 1);
    }
    virtq_push(&r->queue->vq, c, written);
}

/* A block request has ended. Thread: the loop's. */
static void request_done(struct blk_req *req, int ret)
{
    struct request *r = container_of(req, struct request, blk);
    struct virtio_queue *q = r->queue;
    struct virtio_device *vdev = q->vdev;
    g_mutex_lock(&q->lock);
    if (r->generation == q->generation) {
        complete_locked(r, ret == 0 ? S_OK : S_IOERR);
        virtio_interrupt(q);
    }
    g_mutex_unlock(&q->lock);
    request_put(r);
    virtio_request_end(vdev);
}

/* Whether [sector, sector + len bytes) is a whole number of blocks on the disk. */
static bool range_ok(const struct vblk *b, uint64_t sector, uint64_t len)
{
    uint64_t offset;
    return !__builtin_mul_overflow(sector, SECTOR, &offset) &&
           offset % b->logical_block_size == 0 && len % b->logical_block_size == 0 &&
           offset <= blk_length(b->drive) && len <= blk_length(b->drive) - offset;
}

/* The data segments of one side, without @skip bytes in front; @len bytes. */
static unsigned cut_data(struct request *r, const struct iovec *iov, unsigned n,
                         uint32_t skip, uint32_t len)
{
    unsigned out = 0;
    for (unsigned i = 0; i < n && len; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= (uint32_t)iov[i].iov_len;
            continue;
        }
        size_t part = MIN(len, iov[i].iov_len - skip);
        r->data[out++] = (struct iovec){(uint8_t *)iov[i].iov_base + skip, part};
        skip = 0;
        len -= (uint32_t)part;
    }
    return out;
}

static void submit(struct request *r)
{
    r->blk.done = request_done;
    virtio_request_begin(r->queue->vdev);
    blk_submit(r->vblk->drive, &r->blk);
}

static unsigned write_flags(const struct vblk *b)
{
    return atomic_load_explicit(&b->write_cache, memory_order_relaxed) ? 0 : BLK_FUA;
}

/* What the start functions return instead of a status when done() will follow. */
enum { ON_ITS_WAY = -1 };

static int start_rw(struct request *r, uint64_t sector, bool write)
{
    struct vblk *b = r->vblk;
    struct virtq_chain *c = &r->chain;
    uint32_t len = write ? c->out_len - HEADER : c->in_len - 1;
    if (len == 0 || !range_ok(b, sector, len) || (write && blk_read_only(b->drive))) {
        return S_IOERR;
    }
    unsigned n = write ? cut_data(r, c->iov, c->nb_out, HEADER, len)
                       : cut_data(r, c->iov + c->nb_out, c->nb_in, 0, len);
    r->written = write ? 0 : len;
    r->blk.op = write ? BLK_WRITE : BLK_READ;
    r->blk.flags = write ? write_flags(b) : 0;
    r->blk.offset = sector * SECTOR;
    r->blk.len = len;
    r->blk.iov = r->data;
    r->blk.nb_iov = n;
    submit(r);
    return ON_ITS_WAY;
}

static int start_flush(struct request *r)
{
    r->blk.op = BLK_FLUSH;
    r->blk.flags = 0;
    r->blk.offset = r->blk.len = 0;
    r->blk.iov = NULL;
    r->blk.nb_iov = 0;
    submit(r);
    return ON_ITS_WAY;
}

static int get_id(struct request *r)
{
    char id[ID_BYTES] = {0};
    const char *serial = r->vblk->serial ? r->vblk->serial : "";
    if (r->chain.in_len < ID_BYTES + 1) {
        return S_IOERR;
    }
    memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    r->written = virtq_chain_write(&r->chain, 0, id, sizeof(id));
    return S_OK;
}

/* Discard or zero one range: {le64 sector, le32 sectors, le32 flags} (5.2.6). */
static int start_range(struct request *r, bool zeroes)
{
    struct vblk *b = r->vblk;
    uint8_t range[RANGE_BYTES];
    if (r->chain.out_len - HEADER != RANGE_BYTES ||
        virtq_chain_read(&r->chain, HEADER, range, sizeof(range)) != sizeof(range)) {
        return S_IOERR;
    }
    uint64_t sector = le64_get(range);
    uint32_t sectors = le32_get(range + 8), flags = le32_get(range + 12);
    uint32_t max = zeroes ? b->max_zeroes_sectors : b->max_discard_sectors;
    if ((flags & ~1u) || (flags && !zeroes)) {
        return S_UNSUPP;
    }
    if (sectors == 0 || sectors > max || blk_read_only(b->drive) ||
        !range_ok(b, sector, (uint64_t)sectors * SECTOR)) {
        return S_IOERR;
    }
    r->blk.op = zeroes ? BLK_ZERO : BLK_DISCARD;
    r->blk.flags = zeroes ? write_flags(b) | (flags ? BLK_MAY_UNMAP : 0) : 0;
    r->blk.offset = sector * SECTOR;
    r->blk.len = (uint64_t)sectors * SECTOR;
    r->blk.iov = NULL;
    r->blk.nb_iov = 0;
    submit(r);
    return ON_ITS_WAY;
}

/* Start what the chain asks for: a status, or ON_ITS_WAY. */
static int start(struct request *r)
{
    struct virtio_device *vdev = &r->vblk->vdev;
    uint8_t header[HEADER];
    virtq_chain_read(&r->chain, 0, header, sizeof(header));
    uint64_t sector = le64_get(header + 8);
    r->written = 0;
    switch (le32_get(header)) {
    case T_IN: return start_rw(r, sector, false);
    case T_OUT: return start_rw(r, sector, true);
    case T_FLUSH: return start_flush(r);
    case T_GET_ID: return get_id(r);
    case T_DISCARD:
        return virtio_has(vdev, F_DISCARD) ? start_range(r, false) : S_UNSUPP;
    case T_ZEROES:
        return virtio_has(vdev, F_WRITE_ZEROES) ? start_range(r, true) : S_UNSUPP;
    default: return S_UNSUPP;
    }
}

/* Take and start one request; false when there is none. */
static bool run_one(struct vblk *b, struct virtio_queue *q)
{
    struct request *r = request_get(b);
    r->chain = (struct virtq_chain){.iov = r->iov, .gpa = r->gpa, .max = SEGS};
    if (!virtio_pop(q, &r->chain)) {
        request_put(r);
        return false;
    }
    r->queue = q;
    r->generation = q->generation;
    if (r->chain.out_len < HEADER || r->chain.in_len < 1) {
        /* No room for header or status: there is nowhere to say so. */
        virtio_broken(q->vdev);
        request_put(r);
        return false;
    }
    int status = start(r);
    if (status != ON_ITS_WAY) {
        complete_locked(r, (uint8_t)status);
        virtio_interrupt(q);
        request_put(r);
    }
    return true;
}

static void vblk_run(struct virtio_queue *q)
{
    struct vblk *b = (struct vblk *)q->vdev;
    unsigned budget = q->vq.size;
    virtq_kicks_off(&q->vq);
    while (budget && run_one(b, q)) {
        budget--;
    }
    virtio_run_ends(q, true);
}

/* ---- configuration -----------------------------------------------------------------
 */

static void vblk_config_read(struct virtio_device *vdev)
{
    struct vblk *b = (struct vblk *)vdev;
    uint8_t *c = vdev->config;
    uint32_t block = (uint32_t)b->logical_block_size;
    le64_put(c + CFG_CAPACITY, blk_length(b->drive) / SECTOR);
    le32_put(c + CFG_SEG_MAX, SEG_MAX);
    le32_put(c + CFG_BLK_SIZE, block);
    c[CFG_PHYSICAL_EXP] =
        (uint8_t)__builtin_ctzll(MAX(b->physical_block_size / block, 1));
    le16_put(c + CFG_MIN_IO, (uint16_t)MIN(b->min_io_size / block, UINT16_MAX));
    le32_put(c + CFG_OPT_IO, (uint32_t)MIN(b->opt_io_size / block, UINT32_MAX));
    c[CFG_WRITEBACK] = atomic_load(&b->write_cache);
    le16_put(c + CFG_NUM_QUEUES, (uint16_t)vdev->nb_queues);
    if (vdev->offered & F_DISCARD) {
        le32_put(c + CFG_MAX_DISCARD_SECTORS, b->max_discard_sectors);
        le32_put(c + CFG_MAX_DISCARD_SEG, 1);
        le32_put(c + CFG_DISCARD_ALIGN,
                 (uint32_t)(MAX(b->discard_granularity, block) / SECTOR));
    }
    if (vdev->offered & F_WRITE_ZEROES) {
        le32_put(c + CFG_MAX_ZEROES_SECTORS, b->max_zeroes_sectors);
        le32_put(c + CFG_MAX_ZEROES_SEG, 1);
        c[CFG_ZEROES_MAY_UNMAP] = 1;
    }
}

/* The write cache is the one thing a driver may set (5.2.5.2). */
static void vblk_config_write(struct virtio_device *vdev, unsigned off, uint32_t value,
                              unsigned len)
{
    struct vblk *b = (struct vblk *)vdev;
    if (off == CFG_WRITEBACK && len == 1 && virtio_has(vdev, F_CONFIG_WCE)) {
        atomic_store(&b->write_cache, value & 1);
    }
}

/* A driver that cannot flush must find every write durable (5.2.6.2). */
static void vblk_start(struct virtio_device *vdev)
{
    if (!virtio_has(vdev, F_FLUSH)) {
        atomic_store(&((struct vblk *)vdev)->write_cache, false);
    }
}

static void vblk_stop(struct virtio_device *vdev)
{
    struct vblk *b = (struct vblk *)vdev;
    atomic_store(&b->write_cache, blk_get_write_cache(b->drive));
}

static const struct virtio_ops vblk_ops = {
    .device_id = 2,
    .run = vblk_run,
    .config_read = vblk_config_read,
    .config_write = vblk_config_write,
    .start = vblk_start,
    .stop = vblk_stop,
};

/* ---- the device
 * ---------------------------------------------------------------------- */

static bool power_of_two(uint64_t v)
{
    return v && !(v & (v - 1));
}

static bool check_geometry(const struct vblk *b, GError **error)
{
    if (!power_of_two(b->logical_block_size) || !power_of_two(b->physical_block_size)) {
        return error_msg(error, "block sizes must be powers of two");
    }
    if (b->physical_block_size < b->logical_block_size) {
        return error_msg(error,
                         "physical_block_size is smaller than logical_block_size");
    }
    if (b->min_io_size % b->logical_block_size ||
        b->opt_io_size % b->logical_block_size) {
        return error_msg(error, "min_io_size and opt_io_size must be multiples of "
                                "logical_block_size");
    }
    if (b->discard_granularity % b->logical_block_size) {
        return error_msg(
            error, "discard_granularity must be a multiple of logical_block_size");
    }
    if (!power_of_two(b->queue_size)) {
        return error_msg(error, "queue-size must be a power of two");
    }
    if (b->serial && strlen(b->serial) > ID_BYTES) {
        return error_msg(error, "serial '%s' is longer than %d bytes", b->serial,
                         ID_BYTES);
    }
    return true;
}

static uint64_t wanted_features(const struct vblk *b)
{
    uint64_t f = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
    bool writable = !blk_read_only(b->drive);
    f |= writable ? 0 : F_RO;
    f |= b->config_wce ? F_CONFIG_WCE : 0;
    f |= b->num_queues > 1 ? F_MQ : 0;
    f |= writable && b->discard ? F_DISCARD : 0;
    f |= writable && b->write_zeroes ? F_WRITE_ZEROES : 0;
    f |= b->indirect_desc ? VIRTIO_F_INDIRECT_DESC : 0;
    f |= b->event_idx ? VIRTIO_F_EVENT_IDX : 0;
    return f;
}

static bool vblk_setup(struct vblk *b, GError **error)
{
    if (!check_geometry(b, error)) {
        return false;
    }
    struct virtio_setup setup = {
        .ops = &vblk_ops,
        .loop = blk_get_loop(b->drive),
        .features = wanted_features(b),
        .nb_queues = b->num_queues,
        .queue_max = b->queue_size,
        .config_len = CFG_LEN,
    };
    virtio_init(&b->vdev, &setup);
    atomic_store(&b->write_cache, blk_get_write_cache(b->drive));
    return true;
}

static void vblk_cleanup(struct vblk *b)
{
    virtio_done(&b->vdev);
    while (b->free) {
        struct request *r = b->free;
        b->free = r->next;
        g_free(r);
    }
}

static bool vblk_init(struct device *dev, GError **error)
{
    struct vblk *b = (struct vblk *)dev;
    return vblk_setup(b, error) && virtio_mmio_plug(&b->vdev, error);
}

static void vblk_done(struct device *dev)
{
    struct vblk *b = (struct vblk *)dev;
    virtio_mmio_unplug(&b->vdev);
    vblk_cleanup(b);
}

static const struct state_field vblk_fields[] = {
    VIRTIO_STATE_FIELD,
    {.name = "write-cache",
     .kind = STATE_BOOL,
     .offset = offsetof(struct vblk, write_cache)},
    {.name = NULL},
};

static const struct state_table vblk_state = {
    .name = "virtio-blk", .version = 1, .fields = vblk_fields};

#define FIELD(f)      PROP_FIELD(struct vblk, f)
#define SECTORS_LIMIT (INT32_MAX / SECTOR) /* of one request, as others offer too */

struct vblk_pci {
    struct vblk blk;
    struct virtio_pci pci;
};

/* clang-format off */
#define VBLK_PROPS                                                                     \
    {.name = "drive", .type = PROP_DRIVE, FIELD(drive), .required = true, .help =      \
     "the disk: id of -drive, or node-name of -blockdev"},                             \
    {.name = "serial", .type = PROP_STRING, FIELD(serial), .help = "at most 20         \
     bytes"},                                                                          \
    {.name = "logical_block_size", .type = PROP_SIZE, FIELD(logical_block_size),       \
     .def = 512, .min = 512, .max = 2 * MIB, .help = "smallest unit of a request"},    \
    {.name = "physical_block_size", .type = PROP_SIZE, FIELD(physical_block_size),     \
     .def = 512, .min = 512, .max = 2 * MIB, .help = "unit the guest should align      \
     to"},                                                                             \
    {.name = "min_io_size", .type = PROP_SIZE, FIELD(min_io_size), .max = 2 * MIB,     \
     .help = "good smallest request; 0: not said"},                                    \
    {.name = "opt_io_size", .type = PROP_SIZE, FIELD(opt_io_size), .max = GIB, .help   \
     = "best request; 0: not said"},                                                   \
    {.name = "discard_granularity", .type = PROP_SIZE, FIELD(discard_granularity),     \
     .max = GIB, .help = "unit of discard; 0: a logical block"},                       \
    {.name = "num-queues", .type = PROP_U16, FIELD(num_queues), .def = 1, .min = 1,    \
     .max = VIRTIO_QUEUES_MAX, .help = "request queues"},                              \
    {.name = "queue-size", .type = PROP_U16, FIELD(queue_size), .def = 256, .min =     \
     2, .max = VIRTQ_SIZE_MAX, .help = "entries per queue, a power of two"},           \
    {.name = "discard", .type = PROP_BOOL, FIELD(discard), .def = 1, .help = "offer    \
     discard"},                                                                        \
    {.name = "write-zeroes", .type = PROP_BOOL, FIELD(write_zeroes), .def = 1, .help   \
     = "offer write zeroes"},                                                          \
    {.name = "max-discard-sectors", .type = PROP_U32, FIELD(max_discard_sectors),      \
     .def = SECTORS_LIMIT, .min = 1, .max = SECTORS_LIMIT, .help = "of one discard"},  \
    {.name = "max-write-zeroes-sectors", .type = PROP_U32,                             \
     FIELD(max_zeroes_sectors), .def = SECTORS_LIMIT, .min = 1, .max = SECTORS_LIMIT,  \
     .help = "of one write zeroes"},                                                   \
    {.name = "config-wce", .type = PROP_BOOL, FIELD(config_wce), .def = 1, .help =     \
     "let the guest switch the write cache"},                                          \
    {.name = "indirect_desc", .type = PROP_BOOL, FIELD(indirect_desc), .def = 1,       \
     .help = "offer indirect descriptors"},                                            \
    {.name = "event_idx", .type = PROP_BOOL, FIELD(event_idx), .def = 1, .help =       \
     "offer event indexes"}
/* clang-format on */

static const struct prop vblk_props[] = {VBLK_PROPS, {.name = NULL}};
static const struct prop vblk_pci_props[] = {VBLK_PROPS,
                                             VIRTIO_PCI_PROPS(struct vblk_pci, pci),
                                             PCI_BOOT_PROP(struct vblk_pci, pci.pci),
                                             {.name = NULL}};

static const struct state_field vblk_pci_fields[] = {
    VIRTIO_STATE_FIELD,
    {.name = "write-cache",
     .kind = STATE_BOOL,
     .offset = offsetof(struct vblk, write_cache)},
    VIRTIO_PCI_STATE(struct vblk_pci, pci),
    {.name = NULL},
};

static const struct state_table vblk_pci_state = {
    .name = "virtio-blk-pci", .version = 1, .fields = vblk_pci_fields};

const struct device_type virtio_blk_device_type = {
    .name = "virtio-blk-device",
    .desc = "a disk",
    .bus = "virtio-mmio",
    .size = sizeof(struct vblk),
    .props = vblk_props,
    .state = &vblk_state,
    .user = true,
    .init = vblk_init,
    .done = vblk_done,
    .reset = virtio_device_reset,
};

static bool vblk_pci_init(struct device *dev, GError **error)
{
    struct vblk_pci *b = (struct vblk_pci *)dev;
    return vblk_setup(&b->blk, error) &&
           virtio_pci_plug(&b->pci, &b->blk.vdev, PCI_CLASS_SCSI, error) &&
           pci_add_boot_path(&b->pci.pci, "scsi", "/disk@0,0", error);
}

static void vblk_pci_done(struct device *dev)
{
    struct vblk_pci *b = (struct vblk_pci *)dev;
    virtio_pci_unplug(&b->pci);
    vblk_cleanup(&b->blk);
}

static void vblk_pci_reset(struct device *dev)
{
    virtio_pci_reset(&((struct vblk_pci *)dev)->pci);
}

const struct device_type virtio_blk_pci_type = {
    .name = "virtio-blk-pci",
    .alias = "virtio-blk",
    .desc = "a disk",
    .bus = "PCI",
    .size = sizeof(struct vblk_pci),
    .props = vblk_pci_props,
    .state = &vblk_pci_state,
    .user = true,
    .init = vblk_pci_init,
    .done = vblk_pci_done,
    .reset = vblk_pci_reset,
};
