package plan

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// Machine is what a plan is made for.
type Machine struct {
	Cores int `json:"cores"`
	// MemoryBytes is what processes can still take; 0 means not known, and then nothing is refused for it.
	MemoryBytes  int64  `json:"memory_bytes"`
	MemorySource string `json:"memory_source"`
	// Vector is the instruction set that matters for products: "avx512_bf16", "avx512f", "avx2" or "".
	Vector string `json:"vector"`
	// ThreadFLOPsPerSecond is measured; 0 takes an assumption that goes by Vector.
	ThreadFLOPsPerSecond float64 `json:"thread_flops_per_second,omitempty"`
}

// Local describes this machine: its memory is what Linux says is available, or what the process's control group leaves,
// whichever is less.
func Local() Machine { return read(os.DirFS("/"), runtime.NumCPU()) }

// read describes a machine by the files that Linux shows. A file that is missing or odd leaves its field not known.
func read(root fs.FS, cores int) Machine {
	m := Machine{Cores: cores, Vector: vector(root)}
	if n, ok := available(root); ok {
		m.MemoryBytes, m.MemorySource = n, "MemAvailable"
	}
	if n, ok := groupLeaves(root); ok && (m.MemoryBytes == 0 || n < m.MemoryBytes) {
		m.MemoryBytes, m.MemorySource = n, "the control group's limit"
	}
	return m
}

// available is MemAvailable of /proc/meminfo.
func available(root fs.FS) (int64, bool) {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, false
	}
	kb, ok := field(text, "MemAvailable:")
	return kb << 10, ok && kb > 0
}

// groupLeaves is the least that a limit of the process's control group, or of one above it, leaves: the limit less
// what is used and cannot be dropped. Both versions of the interface are read.
func groupLeaves(root fs.FS) (int64, bool) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	least, found := int64(math.MaxInt64), false
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(part) != 3 {
			continue
		}
		top, limit, used, cache := "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "
		switch {
		case part[1] == "":
		case strings.Contains(","+part[1]+",", ",memory,"):
			top, limit, used, cache = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "
		default:
			continue
		}
		// Inside a container the path may be the host's and not exist: then the top is the container's own group.
		for dir := path.Join(top, part[2]); strings.HasPrefix(dir, top); dir = path.Dir(dir) {
			most, ok := number(root, path.Join(dir, limit))
			if !ok || most >= 1<<62 { // "max", or version 1's way of saying so
				continue
			}
			now, _ := number(root, path.Join(dir, used))
			stat, _ := fs.ReadFile(root, path.Join(dir, "memory.stat"))
			droppable, _ := field(stat, cache)
			if left := most - now + droppable; left < least {
				least, found = left, true
			}
		}
	}
	return least, found
}

func number(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// field is the number after name at the start of a line.
func field(text []byte, name string) (int64, bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if rest, found := strings.CutPrefix(lines.Text(), name); found {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// vector is the best instruction set of /proc/cpuinfo's first processor.
func vector(root fs.FS) string {
	f, err := root.Open("proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, flags, found := strings.Cut(lines.Text(), ":")
		if !found || strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, set := range []string{"avx512_bf16", "avx512f", "avx2"} {
			if strings.Contains(flags+" ", " "+set+" ") {
				return set
			}
		}
		return ""
	}
	return ""
}

// threadRate is operations a second of one thread over a whole step, and where the figure comes from.
func (m Machine) threadRate(bf16 bool) (float64, string) {
	if m.ThreadFLOPsPerSecond > 0 {
		return m.ThreadFLOPsPerSecond, "measured"
	}
	rate := map[string]float64{"avx512_bf16": 60e9, "avx512f": 60e9, "avx2": 25e9}[m.Vector]
	if bf16 && m.Vector == "avx512_bf16" {
		rate = 100e9
	}
	name := m.Vector
	if rate == 0 {
		rate, name = 4e9, "no vector unit known"
	}
	return rate, fmt.Sprintf("assumed %.0f GFLOP/s a thread (%s)", rate/1e9, name)
}
