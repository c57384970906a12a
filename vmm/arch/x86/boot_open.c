/*
 * From the words of a command line to files: what -initrd means depends on the kernel.
 */
#include "vmm/arch/x86/boot_priv.h"

#include <string.h>

#include "lib/base/base.h"

/*
 * The next of "FILE ARGS,FILE ARGS": up to a comma; two commas stand for one. Moves
 * *text behind it, to NULL after the last. The caller owns it.
 */
static char *next_word(const char **text)
{
    GString *word = g_string_new(NULL);
    const char *p = *text;

    for (; *p && (*p != ',' || p[1] == ','); p++) {
        g_string_append_c(word, *p);
        p += *p == ',';
    }
    *text = *p ? p + 1 : NULL;
    return g_string_free(word, FALSE);
}

static bool open_module(struct x86_boot_config *c, const char *word, GError **error)
{
    const char *line = word + strspn(word, " ");
    g_autofree char *path = g_strndup(line, strcspn(line, " "));
    struct x86_boot_module *m = &c->modules[c->nb_modules];

    if (c->nb_modules == X86_BOOT_MODULES_MAX)
        return error_msg(error, "-initrd: more than %d modules", X86_BOOT_MODULES_MAX);
    m->file = x86_boot_file_open("module", path, error);
    if (!m->file)
        return false;
    m->cmdline = g_strdup(line);
    c->nb_modules++;
    return true;
}

bool x86_boot_open(struct x86_boot_config *c, const char *kernel, const char *initrd,
                   GError **error)
{
    c->kernel = x86_boot_file_open("kernel", kernel, error);
    if (!c->kernel)
        return false;
    if (!initrd)
        return true;
    if (!boot_is_multiboot(c->kernel)) {
        c->initrd = x86_boot_file_open("initrd", initrd, error);
        return c->initrd;
    }
    for (const char *rest = initrd; rest;) {
        g_autofree char *word = next_word(&rest);

        if (!open_module(c, word, error))
            return false;
    }
    return true;
}

void x86_boot_config_done(struct x86_boot_config *c)
{
    x86_boot_file_free(c->kernel);
    x86_boot_file_free(c->initrd);
    for (unsigned i = 0; i < c->nb_modules; i++) {
        x86_boot_file_free(c->modules[i].file);
        g_free(c->modules[i].cmdline);
    }
    c->kernel = c->initrd = NULL;
    c->nb_modules = 0;
}
