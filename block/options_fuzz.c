#include <stddef.h>
#include <stdint.h>

#include "block/options.h"

/*
 * Option texts of any kind: they parse, lower and nest, or are refused with an error,
 * and what came out can be written as JSON and read again.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drop(json_t *v, GError *err)
{
    if (!v != (err != NULL)) {
        __builtin_trap(); /* a result and an error, or neither */
    }
    json_decref(v);
    g_clear_error(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    GError *err = NULL;
    json_t *tree = blk_options_from_blockdev(text, &err);
    drop(tree, err);

    err = NULL;
    json_t *flat = blk_options_parse(text, "file", &err);
    json_t *keep = json_incref(flat);
    drop(flat, err);
    if (keep) {
        err = NULL;
        tree = blk_options_from_drive(keep, &err);
        drop(tree, err);
        json_decref(keep);
    }
    return 0;
}
