#ifndef CMD_IMG_PUMP_H
#define CMD_IMG_PUMP_H

#include "cmd/img/img.h"

/*
 * Moving the content of images with all processors: pieces of the source are taken in
 * order, read and prepared side by side, and written in order (or not).
 */

struct pump_source {
    struct blk *blk;
    uint64_t start; /* where it begins in the target, bytes */
    uint64_t len;
    uint64_t from; /* of the image: where what is taken begins */
};

struct pump {
    const struct img *im;
    const struct pump_source *sources;
    unsigned nb_sources;
    struct blk *target;
    uint64_t total; /* bytes of the target to fill */

    unsigned threads;     /* 0: by the processors */
    bool any_order;       /* writes need not be in order */
    bool compress;        /* store compressed: chunks of the target */
    uint64_t sparse;      /* zero bytes in a row that are left out; 0: none are */
    bool target_is_zero;  /* nothing written reads as zero, behind backing_len */
    uint64_t backing_len; /* of the target's backing file: what is not allocated in the
                             source is left to it up to here; 0: there is none */
    unsigned layers;      /* what the uppermost so many layers of the source hold is
                             written, the rest of the target left alone; 0: all */
    bool salvage;         /* what cannot be read becomes zeros */
    uint64_t rate;        /* bytes per second; 0: as fast as it goes */
    struct img_progress *progress;

    /* Report that it failed at @offset with @error; NULL: in convert's words. */
    void (*failed)(const struct pump *p, uint64_t offset, int error);
};

/* 0, or -errno after the reason was reported. */
int pump_run(struct pump *p);

/* What is at @offset of the sources together, at most @len bytes of one source. */
int pump_status(const struct pump *p, uint64_t offset, uint64_t len,
                struct blk_status *ret);

#endif
