#ifndef VMM_CONTROL_SERIAL_H
#define VMM_CONTROL_SERIAL_H

#include <glib.h>
#include <jansson.h>

/*
 * The texts of -serial, as QEMU's: "none", "null", "stdio", "pty", "file:PATH",
 * "unix:PATH,server,nowait", "tcp:HOST:PORT,...", "pipe:PATH", "fd:N", "chardev:ID",
 * "mon:stdio" (there is no monitor: its leave key Ctrl-A x remains).
 *
 * The result is what chardev_new() takes, with the id "serial@number"; or
 * {"backend": "none"}; or {"chardev": ID}. The caller owns it. NULL with @error.
 */
json_t *serial_parse(const char *text, unsigned number, GError **error);

/* Where @options has an old short form of QEMU's, "nowait" or "noserver" without a
 * value, make it wait=off, server=off. */
void serial_fix_negations(json_t *options);

#endif
