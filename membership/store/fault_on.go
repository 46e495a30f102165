//go:build faults

package store

import (
	"os"
	"strings"
	"syscall"
)

// at ends this process, as a machine that vanishes would, at the point that ZEROFLEET_FAULT names: "before" or "after", and
// what is written or how that begins, as in "after write generation 2".
func at(when, what string) {
	if f := os.Getenv("ZEROFLEET_FAULT"); f != "" && strings.HasPrefix(when+" "+what, f) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
