/*
 * Replays a corpus through a fuzz target, one TAP line per file: what the fuzzer
 * once found stays found in every build, without libFuzzer.
 *
 * usage: X_fuzz CORPUS-FOLDER
 */
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int compare_names(const void *a, const void *b)
{
    return g_strcmp0(*(const char *const *)a, *(const char *const *)b);
}

static GPtrArray *corpus_names(const char *folder)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir)))
        g_ptr_array_add(names, g_strdup(name));
    g_ptr_array_sort(names, compare_names);
    return names;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
        return 2;
    }
    g_autoptr(GPtrArray) names = corpus_names(argv[1]);

    if (names->len == 0) {
        fprintf(stderr, "%s: no seeds in %s\n", argv[0], argv[1]);
        return 1;
    }
    printf("1..%u\n", names->len);
    for (guint i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        g_autofree char *path = g_build_filename(argv[1], name, NULL);
        g_autofree char *data = NULL;
        g_autoptr(GError) error = NULL;
        gsize len = 0;
        /* What it finds, it finds by crashing: then this line never comes. */
        gboolean read = g_file_get_contents(path, &data, &len, &error);

        if (read)
            LLVMFuzzerTestOneInput((const uint8_t *)data, len);
        else
            printf("# %s\n", error->message);
        printf("%s %u %s\n", read ? "ok" : "not ok", i + 1, name);
        fflush(stdout);
    }
    return 0;
}
