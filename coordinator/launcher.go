package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/membership/store"
)

// launcher runs worker processes on this machine. They have process groups of their own, so that a terminal's Ctrl-C
// does not reach them, and outlive this process, so that another coordinator can go on with them.
type launcher struct {
	command   []string // of a worker, without what says which one it is
	threads   int
	advertise string // where workers of other machines reach those of this one; "": there are none
	folder    *runFolder
	// exits tells of each process's end, once. It has room for all of them.
	exits chan exit

	watchers sync.WaitGroup

	mu        sync.Mutex
	processes map[string]store.Process // that have not ended
}

// exit is a worker's process that has ended.
type exit struct {
	id     string
	status string // in words
	err    error  // it cannot be watched
}

func newLauncher(command []string, threads, workers int, folder *runFolder) *launcher {
	return &launcher{
		command: command, threads: threads, folder: folder, exits: make(chan exit, workers),
		processes: map[string]store.Process{},
	}
}

// WorkerProgram finds the worker's program: beside this one, then on PATH.
func WorkerProgram() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find worker: %w", err)
	}
	if own, err = filepath.EvalSymlinks(own); err != nil {
		return "", fmt.Errorf("find worker: %w", err)
	}
	beside := filepath.Join(filepath.Dir(own), "worker")
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return beside, nil
	}
	found, err := exec.LookPath("worker")
	if err != nil {
		return "", fmt.Errorf("find worker: no program %s, and none on PATH: %w", beside, err)
	}
	return found, nil
}

// start runs worker id. Its output goes to its log.
func (l *launcher) start(id string, now time.Time) (store.Process, error) {
	out, err := os.OpenFile(l.folder.workerLog(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return store.Process{}, fmt.Errorf("start worker %s: %w", id, err)
	}
	defer out.Close() // the process has its own
	args := append(append([]string(nil), l.command[1:]...), "run", "--control", l.folder.path("control.json"), "--id", id)
	if l.advertise != "" {
		args = append(args, "--advertise", l.advertise)
	}
	cmd := exec.Command(l.command[0], args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// One thread of the runtime beside those that compute, for connections.
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(l.threads+1))
	if err := cmd.Start(); err != nil {
		return store.Process{}, fmt.Errorf("start worker %s: %w", id, err)
	}
	ticks, _, err := startTicks(cmd.Process.Pid) // a zombie at worst: it is not waited for yet
	if err != nil {
		return store.Process{}, errors.Join(fmt.Errorf("start worker %s: %w", id, err), cmd.Process.Kill(), cmd.Wait())
	}
	p := store.Process{ID: id, PID: cmd.Process.Pid, Start: ticks, Started: now}
	l.keep(p)
	l.watchers.Go(func() {
		err := cmd.Wait()
		l.forget(id)
		if cmd.ProcessState == nil {
			l.exits <- exit{id: id, err: err}
			return
		}
		l.exits <- exit{id: id, status: exitWords(cmd.ProcessState.Sys().(syscall.WaitStatus))}
	})
	return p, nil
}

// adopt watches a process that another coordinator started, until ctx ends.
func (l *launcher) adopt(ctx context.Context, p store.Process) {
	l.keep(p)
	l.watchers.Go(func() {
		err := awaitExit(ctx, p.PID, p.Start)
		if errors.Is(err, context.Canceled) {
			return
		}
		l.forget(p.ID)
		l.exits <- exit{id: p.ID, status: "ended; its status went to the coordinator that had started it", err: err}
	})
}

func (l *launcher) keep(p store.Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.processes[p.ID] = p
}

func (l *launcher) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.processes, id)
}

// signal sends s to running workers and what they have started.
func (l *launcher) signal(s syscall.Signal, to func(id string) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, p := range l.processes {
		running, err := runs(p.PID, p.Start)
		if err == nil && running && to(p.ID) {
			err = syscall.Kill(-p.PID, s)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("send %s to worker %s: %w", s, p.ID, err))
		}
	}
	return errors.Join(errs...)
}

// wait returns when nothing is watched any more: what this launcher started has ended, and what it adopted too, or
// their context has.
func (l *launcher) wait() { l.watchers.Wait() }
