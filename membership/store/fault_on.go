//go:build faults

package store

import (
	"os"
	"syscall"
)

// at ends this process, as a machine that vanishes would, at the point that ZEROFLEET_FAULT names: "before" or "after", and
// what is written, as in "after write generation 2".
func at(when, what string) {
	if os.Getenv("ZEROFLEET_FAULT") == when+" "+what {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
