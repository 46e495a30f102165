package coordinator

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// unreportedSuffix ends the names of files in logs/ where workers that ended without a coordinator left what they had to
// tell: a ReportEntry in JSON a line.
const unreportedSuffix = ".unreported.jsonl"

// absorb takes what workers left in logs/ into the record and removes it there.
func (r *record) absorb(f *runFolder) error {
	paths, err := filepath.Glob(f.path("logs", "worker-*"+unreportedSuffix))
	if err != nil {
		return fmt.Errorf("find unreported lines: %w", err)
	}
	told := map[string][]*zerofleetv1.ReportEntry{}
	var steps []*zerofleetv1.ReportEntry // of all workers: each may lack some
	for _, path := range paths {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "worker-"), unreportedSuffix)
		entries, err := readUnreported(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.GetStep() != nil {
				steps = append(steps, e)
			} else {
				told[id] = append(told[id], e)
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b *zerofleetv1.ReportEntry) int {
		return int(a.GetStep().GetStep()) - int(b.GetStep().GetStep())
	})
	r.absorbing = true
	defer func() { r.absorbing = false }()
	_, err = r.take(life{}, steps)
	for id, entries := range told {
		if err == nil {
			_, err = r.take(life{id: id}, entries)
		}
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

func readUnreported(path string) ([]*zerofleetv1.ReportEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read unreported lines: %w", err)
	}
	defer f.Close()
	var entries []*zerofleetv1.ReportEntry
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		e := new(zerofleetv1.ReportEntry)
		if err := protojson.Unmarshal(in.Bytes(), e); err != nil {
			break // the worker was killed while it wrote this one
		}
		entries = append(entries, e)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return entries, nil
}
