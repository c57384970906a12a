#ifndef VMM_BOARD_SMBIOS_H
#define VMM_BOARD_SMBIOS_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

/*
 * SMBIOS tables (DMTF DSP0134, 2.8): what dmidecode shows. Firmware installs them from
 * two files of the firmware configuration device.
 */

struct smbios_machine {
    const char *product, *version;    /* "Standard PC (...)", "pc-q35-7.2" */
    const char *uuid;                 /* text, or NULL: all zeros */
    unsigned nb_cpus, cores, threads; /* of a socket; 0: one socket has all */
    uint64_t cpu_id;                  /* CPUID leaf 1: EAX, and EDX above it */
    uint64_t low_memory, high_memory; /* bytes below 4 GiB, and from there on */
    /* What -smbios says: an array of objects {"type": N, "manufacturer": ...}; NULL:
     * nothing. Borrowed. */
    const json_t *options;
};

struct smbios {
    GByteArray *anchor, *tables; /* etc/smbios/smbios-anchor, ...-tables */
};

/* Whether one -smbios is understood: types 0 to 3, with their fields. */
bool smbios_check(const json_t *option, GError **error);

/* Options were checked. Free with smbios_done(). */
void smbios_build(const struct smbios_machine *m, struct smbios *ret);
void smbios_done(struct smbios *s);

#endif
