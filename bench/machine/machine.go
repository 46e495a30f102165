// Package machine says where a benchmark ran.
package machine

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Line is where it was measured, and how busy that was.
func Line() string {
	name := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	load := "unknown"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(b), " ")
	}
	return fmt.Sprintf("%s, %d cores; load when it began: %s.", name, runtime.NumCPU(), load)
}
