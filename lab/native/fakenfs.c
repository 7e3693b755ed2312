/* fakenfs.so: LD_PRELOAD for libvirtd.  libvirt refuses to live-migrate a guest whose disk is
 * not on a file system it knows as shared; the lab's shared instances directory is one
 * directory seen by all simulated hosts, so say NFS for it (libvirt >= 11 has the setting
 * shared_filesystems in qemu.conf for this). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
static int shared(const char *p) {
    const char *s = getenv("VMHA_LAB_SHARED_FS");
    return s && *s && p && strncmp(p, s, strlen(s)) == 0;
}
int statfs(const char *p, struct statfs *b) {
    int (*f)(const char *, struct statfs *) = dlsym(RTLD_NEXT, "statfs");
    int r = f(p, b);
    if (r == 0 && shared(p)) b->f_type = 0x6969;
    return r;
}
int statfs64(const char *p, struct statfs64 *b) {
    int (*f)(const char *, struct statfs64 *) = dlsym(RTLD_NEXT, "statfs64");
    int r = f(p, b);
    if (r == 0 && shared(p)) b->f_type = 0x6969;
    return r;
}
