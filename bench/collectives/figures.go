package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The operations. A stream is no collective: one rank sends n bytes to another, and the other says with one byte that all
// have come.
const (
	opAllGather     = "all-gather"
	opReduceScatter = "reduce-scatter"
	opAllReduce     = "all-reduce"
	opStream        = "stream"
)

var operations = []string{opAllGather, opReduceScatter, opAllReduce, opStream}

// The least and the greatest number of bytes per rank.
const (
	leastBytes    = 1 << 10
	greatestBytes = 256 << 20
)

// cell is one contender at one operation and size. Its JSON is what -json writes.
type cell struct {
	Place     string    `json:"place"`
	Ranks     int       `json:"ranks"`
	Operation string    `json:"operation"`
	Bytes     int64     `json:"bytes_per_rank"`
	Contender string    `json:"contender"`
	Times     int       `json:"times_per_round"`
	Seconds   []float64 `json:"seconds"` // of one operation, on its slowest rank, round by round
}

// fullBytes is the full buffer of an operation: what an all-gather gives each rank, what each rank brings to a
// reduce-scatter or an all-reduce; of a stream, what is sent.
func (c *cell) fullBytes() int64 {
	if c.Operation == opStream {
		return c.Bytes
	}
	return int64(c.Ranks) * c.Bytes
}

// rate is GB (1e9 bytes) of the full buffer per second: the median, and the lowest and the highest round.
func (c *cell) rate() (mid, low, high float64) {
	mid, low, high = spread(c.Seconds)
	full := float64(c.fullBytes()) / 1e9
	return full / mid, full / high, full / low
}

// spread is the median, the least and the greatest of a list; zeros for an empty one.
func spread(list []float64) (mid, low, high float64) {
	if len(list) == 0 {
		return 0, 0, 0
	}
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[0], s[len(s)-1]
}

// most is how often an operation is repeated in a round at most.
const most = 2000

// timesFor is how often an operation that took so long is repeated to take at least another time.
func timesFor(seconds float64, least time.Duration) int {
	if seconds <= 0 {
		return most
	}
	return int(min(max(math.Ceil(least.Seconds()/seconds), 1), most))
}

var units = []struct {
	name string
	bits int
}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// parseSize reads a number of bytes per rank. Ranks hold f32, and a buffer of every size is cut at lines of a cache.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for _, u := range units {
		if d, ok := strings.CutSuffix(s, u.name); ok {
			digits, shift = d, u.bits
		}
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 1 || n<<shift < leastBytes || n<<shift > greatestBytes || n<<shift%64 != 0 {
		return 0, fmt.Errorf("size %q: want %s to %s, as in 64KiB, and a multiple of 64", s, sizeName(leastBytes), sizeName(greatestBytes))
	}
	return n << shift, nil
}

func sizeName(n int64) string {
	for _, u := range units {
		if n >= 1<<u.bits && n%(1<<u.bits) == 0 {
			return fmt.Sprintf("%d %s", n>>u.bits, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// significant prints three digits.
func significant(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

// smallBytes is the greatest size whose figure is a time.
const smallBytes = 64 << 10

// String is the cell as a table shows it: GB/s, or microseconds where a size is small; the median, lowest and highest.
func (c *cell) String() string {
	if len(c.Seconds) == 0 {
		return "-"
	}
	if c.Bytes <= smallBytes {
		mid, low, high := spread(c.Seconds)
		return fmt.Sprintf("%s µs (%s-%s)", significant(mid*1e6), significant(low*1e6), significant(high*1e6))
	}
	mid, low, high := c.rate()
	return fmt.Sprintf("%s (%s-%s)", significant(mid), significant(low), significant(high))
}
