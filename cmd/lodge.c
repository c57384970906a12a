/*
 * The friendly command. Each subcommand is one line of the table.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#include "cmd/run.h"
#include "lib/base/base.h"

struct command {
    const char *name;
    const char *help;
    int (*run)(int argc, char **argv, GError **error); /* 0, or an exit code */
};

/* A program of ours: beside this one, or on the PATH. */
static void exec_program(const char *name, char **argv, GError **error)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *path = dir ? g_build_filename(dir, name, NULL) : NULL;

    if (path && access(path, X_OK) == 0)
        execv(path, argv);
    else
        execvp(name, argv);
    error_errno(error, errno, "%s", path ?: name);
}

/* The command line so that a shell would read it the same way. */
static void print_command(char *const *argv)
{
    for (; *argv; argv++) {
        g_autofree char *quoted = g_shell_quote(*argv);
        bool plain =
            **argv != '\0' && strspn(*argv, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "abcdefghijklmnopqrstuvwxyz"
                                            "0123456789-_./=,:+@%") == strlen(*argv);

        printf("%s%s", plain ? *argv : quoted, argv[1] ? " " : "\n");
    }
}

static int cmd_run(int argc, char **argv, GError **error)
{
    bool print, help;
    g_auto(GStrv) lowered = run_lower(argc, argv, &print, &help, error);

    if (help) {
        run_help();
        return 0;
    }
    if (!lowered)
        return 1;
    if (print) {
        print_command(lowered);
        return 0;
    }
    exec_program("lodge-vmm", lowered, error);
    return 1;
}

static int cmd_version(int argc, char **argv, GError **error)
{
    printf("lodge %s\n", LODGE_VERSION);
    return 0;
}

static int cmd_help(int argc, char **argv, GError **error);

static const struct command commands[] = {
    {"run", "run a virtual machine on this terminal", cmd_run},
    {"version", "print the version", cmd_version},
    {"help", "print this", cmd_help},
};

static int cmd_help(int argc, char **argv, GError **error)
{
    printf("usage: lodge COMMAND [options]\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].help);
    printf("\n`lodge COMMAND --help` says more.\n");
    return 0;
}

static const struct command *find_command(const char *name, GError **error)
{
    const char *names[ARRAY_LEN(commands) + 1] = {0};
    const char *near;

    name += g_str_has_prefix(name, "--") ? 2 : 0;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        names[i] = commands[i].name;
        if (strcmp(names[i], name) == 0)
            return &commands[i];
    }
    near = nearest_name(name, names);
    error_msg(error, "there is no command '%s'%s%s%s; lodge help lists them", name,
              near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    return NULL;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    const struct command *c;
    int code = 1;

    if (argc < 2) {
        cmd_help(0, NULL, NULL);
        return 1;
    }
    c = find_command(argv[1], &error);
    if (c)
        code = c->run(argc - 2, argv + 2, &error);
    if (error)
        fprintf(stderr, "lodge%s%s: %s\n", c ? " " : "", c ? c->name : "",
                error->message);
    return code;
}
