//go:build faults

package main

import (
	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/train/fault"
)

// addFaults adds --fault: where this worker ends or stops, for tests.
func addFaults(root *cobra.Command) {
	var specs []string
	root.PersistentFlags().StringArrayVar(&specs, "fault", nil, "POINT@NUMBER:WORKER=kill|stop|flip")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		id, err := c.Flags().GetString("id")
		if err != nil {
			return nil // another command than run
		}
		for _, s := range specs {
			if err := fault.Set(s, id); err != nil {
				return err
			}
		}
		return nil
	}
}
