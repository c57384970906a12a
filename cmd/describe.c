#include "cmd/describe.h"

#include <stdio.h>

#include "cmd/img/img.h"

static void print_value(json_t *v, unsigned depth);

void describe_members(json_t *o, unsigned depth)
{
    g_autoptr(GPtrArray) keys = img_json_keys(o);
    for (unsigned i = 0; i < keys->len; i++) {
        json_t *v = json_object_get(o, keys->pdata[i]);
        bool deep = json_is_object(v) || json_is_array(v);
        g_autofree char *name = g_strdelimit(g_strdup(keys->pdata[i]), "-", ' ');
        printf("%*s%s:%c", (int)(depth * 4), "", name, deep ? '\n' : ' ');
        print_value(v, depth + 1);
        if (!deep) {
            printf("\n");
        }
    }
}

static void print_value(json_t *v, unsigned depth)
{
    if (json_is_object(v)) {
        describe_members(v, depth);
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) {
            json_t *e = json_array_get(v, i);
            bool deep = json_is_object(e) || json_is_array(e);
            printf("%*s[%zu]:%c", (int)(depth * 4), "", i, deep ? '\n' : ' ');
            print_value(e, depth + 1);
            if (!deep) {
                printf("\n");
            }
        }
    } else if (json_is_string(v)) {
        printf("%s", json_string_value(v));
    } else if (json_is_integer(v)) {
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else {
        printf("%s", json_is_true(v) ? "true" : "false");
    }
}
