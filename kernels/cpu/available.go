package cpu

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// availableMemory is what this process may still take: the kernel's estimate for the
// machine, or what its control groups (version 2) have left when that is less. ok is false where neither can be read.
func availableMemory() (left int64, ok bool) {
	left = math.MaxInt64
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if v, found := memAvailable(b); found {
			left, ok = v, true
		}
	}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return left, ok
	}
	// "0::/a/b": a limit may stand at any level above.
	_, path, found := strings.Cut(strings.TrimSpace(string(group)), "0::")
	if !found {
		return left, ok
	}
	path, _, _ = strings.Cut(path, "\n")
	const root = "/sys/fs/cgroup"
	for dir := filepath.Join(root, path); strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
		limit, a := readInt(filepath.Join(dir, "memory.max"))
		used, b := readInt(filepath.Join(dir, "memory.current"))
		if a && b && limit-used < left {
			left, ok = max(limit-used, 0), true
		}
	}
	return left, ok
}

func memAvailable(meminfo []byte) (int64, bool) {
	for s := bufio.NewScanner(bytes.NewReader(meminfo)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) == 3 && f[0] == "MemAvailable:" && f[2] == "kB" {
			kb, err := strconv.ParseInt(f[1], 10, 53)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// readInt reads a control file with one number; "max" is none.
func readInt(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
