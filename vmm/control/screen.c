#include "vmm/control/screen.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/control/vnc_server.h"
#include "vmm/display/console.h"
#include "vmm/display/picture.h"

struct screen {
    const struct vmm_config *config;
    const char *dump;   /* a file for the last picture, or NULL */
    GPtrArray *servers; /* struct vnc_server * */
    struct display *display;
};

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

/* ---- the graphics card ---- */

static bool has_card(const struct vmm_config *c)
{
    for (guint i = 0; i < c->devices->len; i++) {
        const struct vmm_item *item = c->devices->pdata[i];
        const char *driver = get(item->options, "driver");

        if (driver && g_ascii_strcasecmp(driver, "VGA") == 0)
            return true;
    }
    return false;
}

bool screen_add_card(struct vmm_config *c, const struct board_type *board,
                     GError **error)
{
    struct vmm_item *item;

    if (!c->vga && (!board->vga_device || c->nodefaults || has_card(c)))
        return true;
    if (g_strcmp0(c->vga, "none") == 0)
        return true;
    if (!board->vga_device)
        return error_msg(error, "-vga %s: machine '%s' has no place for it", c->vga,
                         board->name);
    item = g_new0(struct vmm_item, 1);
    item->where = g_strdup("-vga std");
    item->options = json_pack("{s:s}", "driver", board->vga_device);
    g_ptr_array_insert(c->devices, 0, item);
    return true;
}

/* ---- options ---- */

struct screen *screen_new(const struct vmm_config *c, const struct secrets *secrets,
                          GError **error)
{
    struct screen *s = g_new0(struct screen, 1);

    s->config = c;
    s->servers = g_ptr_array_new_with_free_func((GDestroyNotify)vnc_server_free);
    for (guint i = 0; i < c->displays->len; i++) {
        const struct vmm_item *item = c->displays->pdata[i];

        if (get(item->options, "screendump"))
            s->dump = get(item->options, "screendump");
    }
    for (guint i = 0; i < c->vncs->len; i++) {
        struct vnc_server *v = vnc_server_new(c->vncs->pdata[i], secrets, error);

        if (!v) {
            screen_free(s);
            return NULL;
        }
        g_ptr_array_add(s->servers, v);
    }
    return s;
}

void screen_free(struct screen *s)
{
    if (!s)
        return;
    g_ptr_array_unref(s->servers);
    display_free(s->display);
    g_free(s);
}

void screen_help(FILE *out)
{
    fprintf(out,
            "Displays:\n"
            "  none        the screen is not shown\n"
            "  vnc=PLACE   a VNC server, as with -vnc\n"
            "With none: screendump=FILE  write the last picture at the end, PNG if\n"
            "                            FILE ends with .png, else PPM\n");
}

void screen_cards_help(FILE *out)
{
    fprintf(out, "Graphics cards:\n"
                 "  std         VGA with Bochs's extensions (-device VGA)\n"
                 "  none        no graphics card\n");
}

/* ---- life ---- */

bool screen_open(struct screen *s, GError **error)
{
    const char *guest = s->config->name;
    g_autofree char *name =
        guest ? g_strdup_printf("Lodge (%s)", guest) : g_strdup("Lodge");

    s->display = display_new(error);
    if (!s->display)
        return false;
    for (guint i = 0; i < s->servers->len; i++) {
        if (!vnc_server_open(s->servers->pdata[i], s->display, name, error))
            return false;
    }
    return true;
}

struct display *screen_display(struct screen *s)
{
    return s->display;
}

bool screen_start(struct screen *s, GError **error)
{
    return display_start(s->display, error);
}

static void dump(struct screen *s)
{
    struct console *c = display_console(s->display);
    g_autoptr(GError) error = NULL;

    if (!s->dump || !c)
        return;
    console_refresh(c);
    if (!picture_save(console_surface(c), s->dump, &error))
        fprintf(stderr, "lodge-vmm: screendump: %s\n", error->message);
}

void screen_stop(struct screen *s)
{
    display_stop(s->display);
    g_ptr_array_set_size(s->servers, 0);
    dump(s);
}
