#ifndef CMD_DESCRIBE_H
#define CMD_DESCRIBE_H

#include <jansson.h>

/* The members of @o as lines of text, @depth times four blanks in front, deeper ones
 * below their names: "Format specific information" of an image. */
void describe_members(json_t *o, unsigned depth);

#endif
