#ifndef CMD_OBJECTS_H
#define CMD_OBJECTS_H

#include <stdbool.h>

#include <glib.h>

#include "lib/secret/secret.h"

/*
 * --object of the image tools: "secret,id=...,data=..." adds a secret, "tls-creds-x509,
 * id=...,dir=..." credentials. @text as users write it, k=v or JSON. False with @error,
 * in QEMU's words.
 */
bool objects_add(struct secrets *s, const char *text, GError **error);

#endif
