#ifndef BLOCK_OPTIONS_H
#define BLOCK_OPTIONS_H

#include <glib.h>
#include <jansson.h>

/*
 * Texts to option trees. -drive, -blockdev (JSON or k=v) and json:{...} file names
 * all become the one object that blk_open() takes. Any thread.
 */

/*
 * "k=v,k2=v2" as QEMU writes it: ",," is a comma in a value, "k" alone is k=on. With
 * @implied the first item may be a bare value for that key ("disk.img,format=raw" with
 * "file"). Keys keep their dots; every value is a string. Later values win. The caller
 * owns the object; NULL with @error for an empty key or bytes that are not UTF-8.
 */
json_t *blk_options_parse(const char *text, const char *implied, GError **error);

/*
 * Dotted keys to nested objects: {"file.driver": "x"} to {"file": {"driver": "x"}}, to
 * any depth up to 32. A new object; NULL with @error when a key is both a value and
 * an object ("file=a,file.driver=b") or too deep.
 */
json_t *blk_options_nest(json_t *flat, GError **error);

/* The value of -blockdev: JSON when it starts with '{', else k=v. Nested. */
json_t *blk_options_from_blockdev(const char *text, GError **error);

/*
 * The block part of -drive: takes out of @flat (as blk_options_parse() makes it) the
 * keys file, format, readonly, read-only, cache, discard, detect-zeroes, aio, locking,
 * force-share, key-secret, snapshot=off and everything with a dot (file.locking,
 * encrypt.key-secret...), and makes the tree. What remains in @flat (if, id, index,
 * media, serial, werror...) is for the device side. NULL with @error for a bad value:
 * cache is none, writeback, writethrough, directsync or unsafe; aio=native and
 * snapshot=on are refused.
 */
json_t *blk_options_from_drive(json_t *flat, GError **error);

#endif
