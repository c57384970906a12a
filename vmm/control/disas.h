#ifndef VMM_CONTROL_DISAS_H
#define VMM_CONTROL_DISAS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

/*
 * lodge-vmm -disas: instructions of a file as text, by the decoder that the software
 * CPU runs guests with.
 */
struct disas_options {
    char *file;           /* owned */
    unsigned bits;        /* 16, 32, 64; 0: as the ELF file says, else 64 */
    bool has_addr;        /* else a raw file begins at 0, an ELF's sections at theirs */
    uint64_t addr;        /* of the first byte that is shown */
    uint64_t offset, len; /* of the file's bytes; len 0: all. With one of them or @addr
                             an ELF file is taken as raw */
    bool is_raw;
};

/* "FILE[,bits=16|32|64][,addr=A][,offset=O][,len=L][,raw=on]"; a comma of the name is
 * written twice. @ret is the caller's to clear. False with @error. */
bool disas_options_parse(const char *text, struct disas_options *ret, GError **error);
void disas_options_clear(struct disas_options *o);

/*
 * Write all code of the file to @out, in the form of objdump -d -M intel: an ELF file's
 * executable sections (or segments, where there are no sections) with their symbols,
 * or the bytes of any other. Bytes that are no instruction are "(bad)", one at a time.
 * The file may be anything. False with @error, which names the file.
 */
bool disas_file(const struct disas_options *o, FILE *out, GError **error);

#endif
