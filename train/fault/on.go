//go:build faults

package fault

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// A Fault is what happens at a point: once.
type Fault struct {
	Point  Point
	Number int64          // step or generation; 0: any
	Signal syscall.Signal // 0: a bit is flipped
}

var (
	mu     sync.Mutex
	faults []Fault
)

// Set reads POINT@NUMBER:WORKER=kill|stop|flip, where NUMBER is a step or a generation, or * for the first time, and WORKER the
// id of the worker that it happens to: its rank in the first generation. It is for the worker id alone.
func Set(spec, id string) error {
	f, worker, err := parse(spec)
	if err != nil {
		return fmt.Errorf("fault %q: %w: want POINT@NUMBER:WORKER=kill|stop|flip", spec, err)
	}
	if worker != id {
		return nil
	}
	mu.Lock()
	defer mu.Unlock()
	faults = append(faults, f)
	return nil
}

func parse(spec string) (f Fault, worker string, err error) {
	place, action, _ := strings.Cut(spec, "=")
	point, when, _ := strings.Cut(place, "@")
	number, worker, _ := strings.Cut(when, ":")
	f.Point = Point(point)
	if !slices.Contains(Points, f.Point) {
		return f, worker, fmt.Errorf("no point %q", point)
	}
	if number != "*" {
		if f.Number, err = strconv.ParseInt(number, 10, 64); err != nil {
			return f, worker, err
		}
	}
	switch action {
	case "kill":
		f.Signal = syscall.SIGKILL
	case "stop":
		f.Signal = syscall.SIGSTOP
	case "flip":
	default:
		return f, worker, fmt.Errorf("no action %q", action)
	}
	return f, worker, nil
}

// take gives the fault that is set for a point, once.
func take(p Point, number int64, flip bool) (f Fault, ok bool) {
	mu.Lock()
	defer mu.Unlock()
	i := slices.IndexFunc(faults, func(f Fault) bool {
		return f.Point == p && (f.Number == 0 || f.Number == number) && (f.Signal == 0) == flip
	})
	if i < 0 {
		return Fault{}, false
	}
	f = faults[i]
	faults = slices.Delete(faults, i, i+1)
	return f, true
}

// Flips says whether a bit of what is at a point is to be flipped.
func Flips(p Point, number int64) bool {
	_, ok := take(p, number, true)
	if ok {
		fmt.Fprintf(os.Stderr, "fault: a bit flipped at %s@%d\n", p, number)
	}
	return ok
}

// At passes a point: if a fault is set for it, this process gets its signal here.
func At(p Point, number int64) {
	f, ok := take(p, number, false)
	if !ok {
		return
	}
	fmt.Fprintf(os.Stderr, "fault: %s at %s@%d\n", f.Signal, p, number)
	if err := syscall.Kill(os.Getpid(), f.Signal); err != nil {
		panic(err)
	}
	if f.Signal == syscall.SIGKILL {
		select {} // it comes
	}
}

// During passes a point while what follows goes on.
func During(p Point, number int64) { go At(p, number) }
