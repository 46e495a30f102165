package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/bench/place"
)

// setup is the first line that a rank of ours reads.
type setup struct {
	What        string // a transport, or a bare stream: bareTCP, bareGRPC
	Rank, Ranks int
	Host        string // the address to listen on
	Checksum    bool   // of grpc's tensors
	Pair        *pair  // TLS with it; nil in the clear
}

// rank is one process of ours.
type rank interface {
	// address is where peers find it.
	address() string
	// meet connects it with its peers, whose addresses stand in rank order.
	meet(ctx context.Context, peers []string) error
	// do carries an order out, and gives the seconds of one operation.
	do(ctx context.Context, o order) (float64, error)
	close() error
}

func newRank(ctx context.Context, s setup) (rank, error) {
	switch s.What {
	case transportSHM, transportLanes, transportGRPC:
		return newMember(ctx, s)
	case bareTCP, bareGRPC:
		return newEnd(ctx, s)
	}
	return nil, fmt.Errorf("a rank of %q", s.What)
}

// runRank is a process that measureAll starts. It ends, whatever it does, when its input ends.
func runRank(in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines := make(chan string)
	go func() { // it ends with the process
		defer cancel()
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	var s setup
	if err := json.Unmarshal([]byte(<-lines), &s); err != nil {
		return fmt.Errorf("read the set-up: %w", err)
	}
	r, err := newRank(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	fmt.Fprintln(out, r.address())
	var peers []string
	if err := json.Unmarshal([]byte(<-lines), &peers); err != nil {
		return fmt.Errorf("read the addresses: %w", err)
	}
	if len(peers) != s.Ranks {
		return fmt.Errorf("read %d addresses: want %d", len(peers), s.Ranks)
	}
	if err := r.meet(ctx, peers); err != nil {
		return fmt.Errorf("meet the others: %w", err)
	}
	fmt.Fprintln(out, "ready")
	for line := range lines {
		o, err := parseOrder(line)
		if err == nil {
			var seconds float64
			if seconds, err = r.do(ctx, o); err == nil {
				fmt.Fprintln(out, "ok", seconds)
				continue
			}
		}
		fmt.Fprintln(out, "error", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// openOurs starts ranks of this program at a place.
func openOurs(ctx context.Context, p *place.Place, s setup, ranks int) (_ session, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &crew{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	for r := range ranks {
		s.Rank, s.Ranks, s.Host = r, ranks, p.Address(r, ranks)
		line, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		if err := c.start(fmt.Sprintf("rank %d", r), p.Command(r, ranks, self, rankCommand)); err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintf(c.members[r].in, "%s\n", line); err != nil {
			return nil, fmt.Errorf("set rank %d up: %w", r, err)
		}
	}
	return c, c.meet(ctx)
}

// timed runs an operation o.times, and gives the seconds of one.
func timed(o order, operate func() error) (float64, error) {
	start := time.Now()
	for range o.times {
		if err := operate(); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds() / float64(o.times), nil
}
