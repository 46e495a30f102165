// Command testsum runs go test with its own arguments, prints a line for each package and everything that a
// failed test said, and ends with the counts. Its exit status is go test's. The last line is "skipped: N":
// a green run that left something out must not look like one that did not.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		return 1
	}
	s := summary{w: os.Stdout, output: make(map[string][]string)}
	start := time.Now()
	err = s.read(out)
	status := 0
	if wait := cmd.Wait(); wait != nil {
		status = 1
		var exit *exec.ExitError
		if errors.As(wait, &exit) && exit.ExitCode() > 0 {
			status = exit.ExitCode()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		status = max(status, 1)
	}
	s.finish(time.Since(start))
	if s.failed > 0 || s.passed+s.skipped == 0 {
		status = max(status, 1)
	}
	return status
}

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of build output
	Elapsed                       float64
}

// summary counts tests and keeps the output of those that have not passed.
type summary struct {
	w                       io.Writer
	passed, failed, skipped int
	packages                int
	output                  map[string][]string // by package and test
	why                     []string            // skipped tests
}

func (s *summary) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(s.w, "%s", line) // not go test's own: shown as it is
			} else {
				s.add(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test's output: %w", err)
		}
	}
}

func (s *summary) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.w, e.Output)
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "pass":
		s.count(e, &s.passed, "ok  ")
		delete(s.output, key)
	case "skip":
		if e.Test == "" { // a package without tests
			delete(s.output, key)
			return
		}
		s.skipped++
		s.why = append(s.why, reason(s.output[key])+" ("+short(e.Package)+" "+e.Test+")")
		delete(s.output, key)
	case "fail":
		s.count(e, &s.failed, "FAIL")
		for _, line := range s.output[key] {
			fmt.Fprint(s.w, line)
		}
		delete(s.output, key)
	}
}

// count adds a test, or tells that a package is done.
func (s *summary) count(e event, to *int, word string) {
	if e.Test != "" {
		*to++
		return
	}
	s.packages++
	fmt.Fprintf(s.w, "%s  %-28s %6.1fs\n", word, short(e.Package), e.Elapsed)
}

var skipLine = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// reason is what a skipped test said.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		if at := skipLine.FindString(line); at != "" {
			text := strings.TrimSpace(line[len(at):])
			if !strings.HasPrefix(text, "skipped: ") {
				text = "skipped: " + text
			}
			return text
		}
	}
	return "skipped"
}

// short leaves the module's name out of a package's.
func short(pkg string) string {
	if parts := strings.SplitN(pkg, "/", 4); len(parts) == 4 {
		return parts[3]
	}
	return pkg
}

func (s *summary) finish(took time.Duration) {
	slices.Sort(s.why)
	for _, line := range s.why {
		fmt.Fprintln(s.w, line)
	}
	fmt.Fprintf(s.w, "passed: %d, failed: %d, in %d packages, %.0f s\n", s.passed, s.failed, s.packages, took.Seconds())
	fmt.Fprintf(s.w, "skipped: %d\n", s.skipped)
}
