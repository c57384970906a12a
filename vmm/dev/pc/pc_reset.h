#ifndef VMM_DEV_PC_PC_RESET_H
#define VMM_DEV_PC_PC_RESET_H

struct device_type;

/*
 * The reset control register at port 0xcf9: bit 1 says hard reset, bit 2 going from
 * 0 to 1 resets the machine. Spec: Intel ICH data sheets, "Reset Control Register".
 */
extern const struct device_type pc_reset_type;

#endif
