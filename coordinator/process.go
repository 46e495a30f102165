package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process id is used again after its process has gone; together with the time it started, in clock ticks since boot,
// it names one process.

// startTicks is when process pid started, in clock ticks since boot. alive is false when there is no such process, or
// only what its parent has not collected yet.
func startTicks(pid int) (ticks uint64, alive bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// pid (name) state ...; the name may hold anything, so the fields are counted from its end.
	_, rest, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 20 {
		return 0, false, fmt.Errorf("look at process %d: /proc/%d/stat has %d fields, want 20 after the name", pid, pid, len(fields))
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64) // proc(5): starttime is field 22, state is field 3
	if err != nil {
		return 0, false, fmt.Errorf("look at process %d: start time: %w", pid, err)
	}
	return ticks, fields[0] != "Z" && fields[0] != "X", nil
}

// runs says whether the process that had pid and started at ticks still runs.
func runs(pid int, ticks uint64) (bool, error) {
	started, alive, err := startTicks(pid)
	return alive && started == ticks, err
}

// awaitExit waits until a process, which need not be a child of this one, has ended, or ctx does.
func awaitExit(ctx context.Context, pid int, ticks uint64) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd") // non-blocking, so that the runtime polls it
	defer f.Close()
	// The number may have been given to another process before it was opened; now it cannot be any more.
	if same, err := runs(pid, ticks); err != nil || !same {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	var poll error
	err = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, e := unix.Poll(fds, 0)
		if e != nil && !errors.Is(e, unix.EINTR) {
			poll = e
			return true
		}
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err = errors.Join(poll, err); err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	return nil
}

// exitWords is how a process ended, in words.
func exitWords(s syscall.WaitStatus) string {
	switch {
	case s.Signaled():
		return "killed by " + unix.SignalName(s.Signal())
	case s.ExitStatus() == 0:
		return "exit status 0"
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
