package coordinator

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// runFolder is a run's output.dir:
//
//	job.resolved.yaml    the job with every default and digest
//	control.json         how to reach the coordinator, mode 0600
//	join.token           the same for workers of other machines, mode 0600, with --listen
//	metrics.jsonl        a line per committed step
//	events.jsonl         a line per event
//	tensorboard/         the numbers as TensorBoard reads them, unless log.tensorboard is false
//	logs/                worker-<id>.log, worker-<id>.leaves (what it computed), worker-<id>.trace.jsonl (what sampled steps did), coordinator.log, etcd.log
//	checkpoints/         the checkpoint store, unless the job puts it elsewhere
//	model/               the result
//	etcd/                the membership's data, mode 0700
//	tls/                 the workers' key pair, mode 0700
//
// Whoever holds it has locked it: one coordinator per folder.
type runFolder struct {
	dir  string // absolute
	lock *os.File
	made bool // it was not there before
}

// folderState is what stands where a run folder is to be.
type folderState int

const (
	folderAbsent folderState = iota // or empty
	folderRun
	folderForeign // something else
)

func stateOf(dir string) (folderState, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return folderAbsent, nil
	case err != nil:
		return 0, fmt.Errorf("look at run folder: %w", err)
	case len(entries) == 0:
		return folderAbsent, nil
	}
	for _, e := range entries {
		if e.Name() == "etcd" || e.Name() == "job.resolved.yaml" {
			return folderRun, nil
		}
	}
	return folderForeign, nil
}

// openRunFolder creates dir if it is not there and locks it. It fails with a badInput when another coordinator has it.
func openRunFolder(dir string) (*runFolder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open run folder: %w", err)
	}
	f := &runFolder{dir: dir}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		f.made = true
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, bad("create run folder: %w", err)
	}
	if f.lock, err = os.Open(dir); err != nil {
		return nil, bad("open run folder: %w", err)
	}
	err = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.lock.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, bad("%s: a coordinator is running it already; see it with: coordinator status %s", shown(dir), shown(dir))
	}
	return nil, fmt.Errorf("lock run folder %s: %w", dir, err)
}

func (f *runFolder) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *runFolder) workerLog(id string) string { return f.path("logs", "worker-"+id+".log") }

// prepare makes the folders.
func (f *runFolder) prepare() error {
	for _, d := range []struct {
		name string
		mode fs.FileMode
	}{{"logs", 0o755}, {"etcd", 0o700}, {"tls", 0o700}} {
		if err := os.MkdirAll(f.path(d.name), d.mode); err != nil {
			return fmt.Errorf("prepare run folder: %w", err)
		}
	}
	return nil
}

// close gives the folder up; another coordinator may take it.
func (f *runFolder) close() error { return f.lock.Close() }

// discard removes the folder if this process made it: nothing half-written is left of a launch that was refused.
func (f *runFolder) discard() error {
	err := f.close()
	if f.made {
		err = errors.Join(err, os.RemoveAll(f.dir))
	}
	return err
}

// replaceFile puts a whole file in place of path.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// shown is a path as a person would type it: relative to the working directory when it is below it.
func shown(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

// tail returns the last n lines of a log, of which it reads at most the last 64 KiB.
func tail(path string, n int) ([]string, error) {
	const most = 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	from := max(0, info.Size()-most)
	b, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", path, err)
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil, nil
	}
	return lines[max(0, len(lines)-n):], nil
}
