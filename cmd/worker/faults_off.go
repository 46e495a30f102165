//go:build !faults

package main

import "github.com/spf13/cobra"

// addFaults adds what only bin/worker-faults has.
func addFaults(*cobra.Command) {}
