#ifndef BLOCK_IMAGE_FUZZ_H
#define BLOCK_IMAGE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/*
 * A hostile image of any format. The first byte says what is done with it, the next
 * eight feed offsets; the rest is the file. Whatever it holds, every call ends, with an
 * error or without, in bounded memory; files that it names stay closed.
 */
int image_fuzz(const char *format, const uint8_t *data, size_t size);

enum { IMAGE_FUZZ_HEAD = 9 };

/* The same for an image that the target has made in @fd itself. */
void image_fuzz_file(const char *format, int fd, unsigned mode, uint64_t seed);

/* What libFuzzer calls; each target of one format defines it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
