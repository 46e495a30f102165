package job

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Stage is a ZeRO stage, 0 to 3, or StageAuto.
type Stage int

// StageAuto lets the plan choose the smallest stage that fits.
const StageAuto Stage = -1

func (s Stage) String() string {
	if s == StageAuto {
		return "auto"
	}
	return strconv.Itoa(int(s))
}

// Number is the stage as a number; ok is false for StageAuto.
func (s Stage) Number() (n int, ok bool) { return int(s), s != StageAuto }

// Toggle is on, off or left to the plan.
type Toggle string

// The values of a Toggle.
const (
	On   Toggle = "true"
	Off  Toggle = "false"
	Auto Toggle = "auto"
)

// Bool is the choice; ok is false for Auto.
func (t Toggle) Bool() (on, ok bool) { return t == On, t == On || t == Off }

// Bytes is a number of bytes, written as a number or with a unit: 1024, 64KiB, 1.5GiB, 2GB.
type Bytes int64

var byteUnits = []struct {
	name  string
	bytes float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads a number of bytes with or without a unit.
func ParseBytes(s string) (Bytes, error) {
	number, scale := strings.TrimSpace(s), 1.0
	for _, u := range byteUnits {
		if n, found := strings.CutSuffix(number, u.name); found {
			number, scale = strings.TrimSpace(n), u.bytes
			break
		}
	}
	if scale == 1 {
		if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 {
			return Bytes(n), nil
		}
	}
	x, err := strconv.ParseFloat(number, 64)
	n := x * scale
	if err != nil || strings.ContainsAny(number, "xXpP_nN") || !(n >= 0) || n >= math.MaxInt64 || n != math.Trunc(n) {
		return 0, fmt.Errorf("%q: want a whole number of bytes, such as 1048576, 64KiB or 1.5GiB", s)
	}
	return Bytes(n), nil
}

// String is the shortest exact form with a binary unit.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if unit := Bytes(u.bytes); b >= unit && b%unit == 0 {
			return strconv.FormatInt(int64(b/unit), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
