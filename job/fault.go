package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// position is where something is written: in a file at a line and column, both from 1, or in a --set option.
type position struct {
	source    string
	line, col int // 0 in a --set option
	order     int // of the source: the file first, then the options as given
}

func (p position) String() string {
	if p.line == 0 {
		return p.source
	}
	return fmt.Sprintf("%s:%d:%d", p.source, p.line, p.col)
}

// Fault is one thing that is wrong with a job file.
type Fault struct {
	at      position
	Path    string // the field, such as train.optimizer.name; empty when the file is not YAML
	Message string
}

// Where is the place, such as job.yaml:12:5, or --set train.steps=ten.
func (f Fault) Where() string { return f.at.String() }

func (f Fault) Error() string {
	if f.Path == "" {
		return f.Where() + ": " + f.Message
	}
	return f.Where() + ": " + f.Path + ": " + f.Message
}

// Faults is all that is wrong with a job file, in the file's order. A command that gets one prints it, a line
// for each, and exits with status 2: the input is bad.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// IsBadInput says whether err is, or wraps, faults of a job file.
func IsBadInput(err error) bool {
	var all Faults
	var one Fault
	return errors.As(err, &all) || errors.As(err, &one)
}

// sorted orders faults as they stand in the file, then the options, and drops repetitions.
func (f Faults) sorted() Faults {
	slices.SortStableFunc(f, func(a, b Fault) int {
		for _, d := range []int{a.at.order - b.at.order, a.at.line - b.at.line, a.at.col - b.at.col} {
			if d != 0 {
				return d
			}
		}
		return strings.Compare(a.Path, b.Path)
	})
	return slices.Compact(f)
}

// Fault says that the value of the field at path is wrong for a reason found after loading, such as a file that does
// not exist: the error carries the place where the job file gives it. A field that nobody wrote has its
// section's place.
func (j *Job) Fault(path, format string, args ...any) error {
	return Fault{at: j.position(path), Path: path, Message: fmt.Sprintf(format, args...)}
}

// position finds the nearest written ancestor of path; the file itself has the path "".
func (j *Job) position(path string) position {
	for {
		if p, ok := j.at[path]; ok {
			return p
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return j.at[""]
		}
		path = path[:cut]
	}
}
