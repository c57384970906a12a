#ifndef CMD_RUN_H
#define CMD_RUN_H

#include <stdbool.h>

#include <glib.h>

/*
 * `lodge run`: a short form that is lowered to a lodge-vmm command line.
 *
 * @argc, @argv  what follows "run".
 * Returns the command line as a NULL-terminated array of strings, the first being
 * "lodge-vmm", to be freed with g_strfreev(). NULL with @error, or with *ret_help set
 * when help was asked for. *ret_print: --print was given.
 */
char **run_lower(int argc, char *const *argv, bool *ret_print, bool *ret_help,
                 GError **error);

/* `lodge run --help`. */
void run_help(void);

#endif
