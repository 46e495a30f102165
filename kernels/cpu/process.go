package cpu

import (
	"fmt"
	"sync"
)

// The instruction set and the maker of products are one choice per process: kernels read them in
// their inner loops' entry, and Backends that compute differently side by side are nothing
// that a user could want. process keeps that choice while a Backend is open.
var process struct {
	sync.Mutex
	open   int
	choice choice
}

type choice struct {
	isa string
	own bool // products of our own
}

// enter makes c the choice, or fails when an open Backend has made another one.
func enter(c choice) error {
	process.Lock()
	defer process.Unlock()
	if process.open > 0 && process.choice != c {
		return fmt.Errorf("open with %+v: a backend of this process is open with %+v", c, process.choice)
	}
	if err := forceISA(c.isa); err != nil {
		return err
	}
	forceOwnProducts(c.own)
	process.choice = c
	process.open++
	return nil
}

func leave() {
	process.Lock()
	process.open--
	process.Unlock()
}
