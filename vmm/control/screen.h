#ifndef VMM_CONTROL_SCREEN_H
#define VMM_CONTROL_SCREEN_H

#include <stdbool.h>
#include <stdio.h>

#include <glib.h>

#include "lib/secret/secret.h"
#include "vmm/board/board.h"
#include "vmm/control/config.h"

/* What -vga, -display and -vnc ask for. Thread: main. */

struct display;
struct screen;

/* Put the board's graphics card before the user's devices, where -vga or the lack of it
 * asks for one. */
bool screen_add_card(struct vmm_config *c, const struct board_type *board,
                     GError **error);

/* Check the options; nothing is opened. @c outlives it. */
struct screen *screen_new(const struct vmm_config *c, const struct secrets *secrets,
                          GError **error);
void screen_free(struct screen *s); /* NULL is fine */

/* Make the display; viewers may connect. */
bool screen_open(struct screen *s, GError **error);
struct display *screen_display(struct screen *s);

/* From start to stop the display has its thread. stop writes screendump=FILE. */
bool screen_start(struct screen *s, GError **error);
void screen_stop(struct screen *s);

void screen_help(FILE *out);       /* -display help */
void screen_cards_help(FILE *out); /* -vga help */

#endif
