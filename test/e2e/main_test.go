// Package e2e runs the programs as a user does: real processes, from the command line to what they leave in the run
// folder, and with what can go wrong on the way.
package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// programs is the folder with the built coordinator and worker.
var programs string

func TestMain(m *testing.M) {
	if os.Getenv(confinedVariable) != "" {
		fmt.Fprintln(os.Stderr, "e2e:", confine(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "zerofleet-e2e-"); err == nil {
		defer os.RemoveAll(programs)
		err = errors.Join(build("coordinator", "coordinator", "0"), build("worker", "worker", "1"), build("worker-faults", "worker", "1", "-tags", "faults"),
			build("coordinator-faults", "coordinator", "0", "-tags", "faults"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// build builds one program as make build does, so that what the go command remembers of that is used.
func build(name, command, cgo string, more ...string) error {
	args := append([]string{"build", "-trimpath", "-o", filepath.Join(programs, name)}, more...)
	cmd := exec.Command("go", append(args, "./cmd/"+command)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}

// dependOnTree reads every folder, so that go test runs again, rather than remembers, when a file has changed: it does not
// see what the go command built. It only sees what a test reads, not what TestMain does.
var dependOnTree = sync.OnceValue(func() error {
	root := filepath.Join("..", "..")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if errors.Is(err, fs.ErrNotExist) { // other tests may make and remove files
			return nil
		}
		return err
	})
})
