#ifndef VMM_VM_VM_H
#define VMM_VM_VM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

#include "vmm/vm/accel.h"
#include "vmm/vm/arch.h"
#include "vmm/vm/irq.h"

struct aspace;
struct device;
struct display;
struct gmem;
struct loop;
struct vcpu;
struct pci_host;
struct vm_clock;
struct vm_log;

/*
 * The virtual machine: owns everything of one guest. No global state; two VMs may
 * live in one process (tests do).
 *
 * Life: vm_new -> the board adds memory and devices -> vm_start -> vm_run_main
 * (returns when the VM ends) -> vm_free.
 *
 * Lock order, outermost first: vm->lock, a device's lock, an interrupt controller's
 * lock, vcpu->lock. No lock is held while a vCPU executes guest code.
 */

enum { VM_GSI_MAX = 128 };

enum vm_end {
    VM_END_NONE,         /* still running */
    VM_END_POWEROFF,     /* the guest switched itself off */
    VM_END_RESET,        /* reset while -no-reboot */
    VM_END_TRIPLE_FAULT, /* shutdown cycle while -no-reboot */
    VM_END_EXIT,         /* a device asked to end with an exit status */
    VM_END_QUIT,         /* the user or a signal */
    VM_END_ERROR,        /* the VMM cannot go on; vm->end_error says why */
};

struct vm {
    char *name; /* -name, or NULL */
    const struct arch_ops *arch;
    const struct accel_ops *accel;
    void *accel_state;
    /* What the accelerator does of the architecture's own parts, in a struct of the
     * architecture (struct x86_accel_ops); set by accel->init(). NULL: nothing. */
    const void *accel_arch;
    struct loop *loop; /* the main thread's; borrowed */
    struct gmem *gmem;
    struct aspace *mmio;
    struct aspace *pio; /* NULL when the architecture has no ports */
    struct vm_clock *clock;
    struct vcpu **vcpus;
    unsigned nb_vcpus;
    const void *cpu_model; /* lib/isa's description; what -cpu chose; borrowed */
    GPtrArray *devices;    /* struct device *, in the order of creation; owned */

    struct vm_log *log; /* -d; NULL: none. Borrowed. See log.h */

    bool no_reboot;
    bool no_shutdown;

    /* A breakpoint or step was hit; called on the vCPU's thread, which goes on when
     * it returns, unless vm_stop_all() was asked for. NULL: there is no debugger. */
    void (*debug_fn)(struct vcpu *vcpu, void *opaque);
    void *debug_opaque;

    /* The board's interrupt inputs by global number, 0 .. nb_gsi - 1; devices reach
     * them through vm_gsi_line(), which watches the lines on the way. */
    irq_fn gsi_fn;
    void *gsi_opaque;
    unsigned nb_gsi; /* at most VM_GSI_MAX */
    struct vm_gsi {
        _Atomic bool level;
        _Atomic uint64_t rises; /* low to high, since the start */
    } gsi[VM_GSI_MAX];

    /* The machine's PCI, vmm/dev/pci/pci_host.h; NULL: it has none. Its host bridge's.
     */
    struct pci_host *pci;

    /* Screens, keyboard and mouse, vmm/display/console.h; NULL: there are none, nobody
     * can look. Borrowed. */
    struct display *display;

    /* The interrupt controllers' look at message-signalled interrupts: whether @addr is
     * theirs. NULL: none is. Any thread. */
    bool (*msi_fn)(void *opaque, uint64_t addr, uint32_t data);
    void *msi_opaque;

    /* Where files of firmware are, for vm_find_file(). */
    char *(*find_file)(void *opaque, const char *name, GError **error);
    void *find_file_opaque;

    GPtrArray *boot_paths; /* struct vm_boot_path, see vm_add_boot_path(); owned */

    /* Called on reset after every device's own, before vCPUs run: loaders write
     * the boot image again. */
    void (*board_reset)(struct vm *vm, void *opaque);
    void *board_opaque;

    GMutex lock;           /* guards what follows */
    enum vm_end end;       /* how it ended, or NONE */
    int exit_status;       /* with VM_END_EXIT */
    GError *end_error;     /* with VM_END_ERROR */
    struct vcpu *end_vcpu; /* with VM_END_TRIPLE_FAULT: which; borrowed */
    bool started;          /* between vm_start() and the end */
    bool paused;           /* by vm_pause(), or powered off with no_shutdown */
    bool reset_wanted;
    bool pause_wanted;
    unsigned stop_depth;
    GArray *changes; /* struct vm_change, to be done by the main thread */
};

struct vm_config {
    const struct arch_ops *arch;
    const struct accel_ops *accel;
    const json_t *accel_options; /* borrowed; may be NULL */
    struct loop *loop; /* the caller attached it to the default main context */
    unsigned nb_vcpus;
    const void *cpu_model;
    const char *name;   /* or NULL */
    struct vm_log *log; /* borrowed; or NULL */
};

/* "poweroff", "reset", "triple-fault", ...: static storage. */
const char *vm_end_name(enum vm_end end);

/* NULL with @error when the accelerator refuses. Thread: main, as for all below
 * that do not say another. */
struct vm *vm_new(const struct vm_config *config, GError **error);
void vm_free(struct vm *vm);

/* The board's interrupt input @gsi as a line for a device; unconnected when there
 * is none of that number. */
struct irq_line vm_gsi_line(struct vm *vm, unsigned gsi);

/* Reset everything and start the vCPU threads. */
bool vm_start(struct vm *vm, GError **error);

/*
 * Run the main loop until the VM has ended, resetting it when the guest asks;
 * then stop and join the vCPUs. Thread: main.
 */
enum vm_end vm_run_main(struct vm *vm);

/*
 * Bring every vCPU to a block boundary and keep it there until vm_resume_all().
 * Nests. Any thread except a vCPU's.
 */
void vm_stop_all(struct vm *vm);
void vm_resume_all(struct vm *vm);

/* The vCPU whose thread this is, or NULL. Any thread. */
struct vcpu *vm_current_vcpu(const struct vm *vm);

/*
 * Do fn(@opaque) while every vCPU is stopped: for what a register access of the guest
 * changes of its memory (gmem_map(), gmem_remove()). On a vCPU's thread it is left to
 * the main thread, before any vCPU, the calling one included, enters another block of
 * code; the caller may hold its lock, @fn takes it again. From the main thread it is
 * done before this returns. Not done any more when the VM has ended.
 */
void vm_change(struct vm *vm, void (*fn)(void *opaque), void *opaque);

/* Forget what was asked for with @opaque, which is going away. Thread: main. */
void vm_change_cancel(struct vm *vm, const void *opaque);

/* Reset devices, vCPUs and board, now. Not from a vCPU's thread. */
void vm_reset(struct vm *vm);

/* Stop the vCPUs and guest time / let them go on; idempotent. After the guest
 * powered itself off under no_shutdown the VM is paused, too. */
void vm_pause(struct vm *vm);
void vm_continue(struct vm *vm);

/*
 * What guests and users ask for. Each returns at once, the main thread does it.
 * Any thread, vCPUs' included.
 */
void vm_request_reset(struct vm *vm);
void vm_request_poweroff(struct vm *vm);
void vm_request_end(struct vm *vm, enum vm_end end, int exit_status);
void vm_request_error(struct vm *vm, GError *error); /* takes @error */

/*
 * A message-signalled interrupt: a device's store of 32 bits, @data at @addr, which is
 * an interrupt where the board's interrupt controllers say so, and a store where there
 * is RAM. It does not reach registers of devices. Any thread, any device lock held.
 */
void vm_send_msi(struct vm *vm, uint64_t addr, uint32_t data);

/* The path of the firmware's file @name: itself when there is such a file, or in one of
 * the folders for such files; NULL with @error. Caller owns. Thread: main. */
char *vm_find_file(struct vm *vm, const char *name, GError **error);

/*
 * The firmware's order of booting: the device with the Open Firmware path @path comes
 * at @index; UINT32_MAX: it has no place. False with @error when the index is taken.
 * The list has a path per line, the lowest index first; "" when there are none; caller
 * owns. Thread: main.
 */
bool vm_add_boot_path(struct vm *vm, uint32_t index, const char *path, GError **error);
char *vm_boot_order(const struct vm *vm);

/* {"exits":{"pio":{"count","ns"},...},"regions":[...],"unassigned":{"mmio","pio"},
 * "gsi":{"4":RISES,...},"vcpus":[...]}; caller owns. Any thread. */
json_t *vm_stats(struct vm *vm);

#endif
