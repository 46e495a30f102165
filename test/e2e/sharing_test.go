package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confinedVariable makes this test's program run its arguments where files of memory are refused.
const confinedVariable = "ZEROFLEET_E2E_CONFINED"

// confine replaces this process by a program for which, and for whose children, memfd_create fails, as some sandboxes have it.
func confine(args []string) error {
	runtime.LockOSThread() // the filter is the thread's
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the system call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MEMFD_CREATE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	if fd, err := unix.MemfdCreate("test", 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("memfd_create gives %d, %v: want EPERM", fd, err)
	}
	if err := os.Unsetenv(confinedVariable); err != nil {
		return err
	}
	return unix.Exec(args[0], args, os.Environ())
}

// Where no memory can be shared the workers of one host use connections, say why, and give the same answer. A full /dev/shm is no
// such place: nothing of theirs lies in it.
func TestWithoutSharedMemory(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	launch := func(run string) []string {
		return []string{programs + "/coordinator", "launch", "job.yaml", "--workers", "2", "--set", "collective.transport=auto",
			"--set", "train.steps=3", "--set", "output.dir=runs/" + run}
	}
	const full = `mount -t tmpfs -o size=64k none /dev/shm && head -c 64k /dev/zero > /dev/shm/full && ! echo more > /dev/shm/more 2> /dev/null && exec "$@"`
	want := ""
	for _, c := range []struct {
		run, program string
		env, args    []string
		by, says     string
	}{
		{run: "shared", program: "coordinator", args: launch("shared")[1:], by: "shm"},
		{run: "full", program: unshare, args: append([]string{"--mount", "sh", "-c", full, "sh"}, launch("full")...), by: "shm"},
		{run: "refused", program: self, env: []string{confinedVariable + "=1"}, args: launch("refused"), by: "lanes", says: "no memory is shared with peers on this host"},
	} {
		p.startAs(c.program, c.env, c.args...).wait().wants(t, 0)
		got, step := p.hash("runs/" + c.run)
		if want == "" {
			want = got
		}
		if got != want || step != 3 {
			t.Errorf("%s: hash %.12s of step %d, want %.12s of step 3", c.run, got, step, want)
		}
		for _, worker := range []string{"worker-0.log", "worker-1.log"} {
			log := p.read("runs/"+c.run, "logs", worker)
			if carried := fmt.Sprintf("peers_by_transport=map[%s:1]", c.by); !strings.Contains(log, carried) || !strings.Contains(log, c.says) {
				t.Errorf("%s: %s does not say %q and %q:\n%s", c.run, worker, carried, c.says, log)
			}
		}
	}
	p.wantsNothingLeft()
}
