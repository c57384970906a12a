#ifndef VMM_CONTROL_FW_FILES_H
#define VMM_CONTROL_FW_FILES_H

#include <glib.h>

#include "vmm/control/config.h"

/*
 * -fw_cfg name=NAME,file=PATH|string=TEXT: files for the guest's firmware configuration
 * device. Their names begin with "opt/", so that none is in the way of the machine's
 * own; another name is warned of.
 */

#define FW_FILE_MAX (UINT32_C(256) << 20) /* bytes */

/* Read them: an array of struct board_fw_file, which owns its strings and bytes. NULL
 * with @error. */
GArray *fw_files_new(const struct vmm_config *c, GError **error);

#endif
