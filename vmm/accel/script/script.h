#ifndef VMM_ACCEL_SCRIPT_SCRIPT_H
#define VMM_ACCEL_SCRIPT_SCRIPT_H

#include <stdbool.h>

#include <glib.h>

struct vm;
struct vcpu;
struct accel_ops;

/*
 * The accelerator without a CPU: a text does register accesses and says what it
 * expects. `-accel script,file=PATH`. It is how device tests are written.
 *
 *     # 16550A: the scratch register keeps what is written
 *     outb 0x3ff 0x5a
 *     inb 0x3ff = 0x5a
 *     inb 0x3fd & 0x60 = 0x60
 *
 * docs/script.md describes the language. When an expectation fails the VM ends with
 * an error: "uart.script:3: inb 0x3fd & 0x60: expected 0x60, got 0x0". At the end
 * of the text the VM ends with exit status 0.
 *
 * The first vCPU runs the text, on its thread; the others stay off.
 */
extern const struct accel_ops script_accel;

/*
 * Run @text (@name stands for it in messages) against the devices of @vm at once,
 * in the calling thread, without any vCPU thread. For unit tests of devices: the VM
 * need not be started, its clock stands still and moves only with `advance`, and
 * where a command waits the loop of @vm is polled.
 * False with @error "NAME:LINE: ..." at the first thing that is wrong.
 * Thread: main, the loop's.
 */
bool script_run_text(struct vm *vm, const char *name, const char *text, GError **error);

#endif
