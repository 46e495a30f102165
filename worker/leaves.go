package worker

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// leaves is the worker's file of what it computed, logs/worker-<id>.leaves: a line for each leaf, and one for each step
// that was committed,
//
//	{"generation":2,"step":7,"leaf":3}
//	{"generation":2,"step":7,"committed":true}
//
// so that it can be told afterwards who computed what, and what was computed in vain. Each line is one write: it is there
// when the process is killed after it.
type leaves struct {
	file       *os.File // nil when it cannot be written: training is worth more
	log        *slog.Logger
	generation uint64
	open       int // computed in this generation, of the step that is not committed
}

func openLeaves(runDir, id string, log *slog.Logger) *leaves {
	l := &leaves{log: log}
	var err error
	l.file, err = os.OpenFile(filepath.Join(runDir, "logs", "worker-"+id+".leaves"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		l.gone(err)
	}
	return l
}

func (l *leaves) gone(err error) {
	l.log.Warn("what is computed is not written down any more", "error", err)
	l.file = nil
}

func (l *leaves) write(format string, a ...any) {
	if l.file == nil {
		return
	}
	if _, err := fmt.Fprintf(l.file, format, a...); err != nil {
		l.file.Close()
		l.gone(err)
	}
}

func (l *leaves) computed(step int64, leaf int) {
	l.open++
	l.write("{\"generation\":%d,\"step\":%d,\"leaf\":%d}\n", l.generation, step, leaf)
}

func (l *leaves) committed(step uint64) {
	l.open = 0
	l.write("{\"generation\":%d,\"step\":%d,\"committed\":true}\n", l.generation, step)
}

func (l *leaves) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
