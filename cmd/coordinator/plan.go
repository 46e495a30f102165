package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func planCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan JOB.yaml",
		Short: "what a job needs, and whether it fits this machine",
		Args:  args(cobra.ExactArgs(1)),
	}
	sets, asJSON := setFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		p, err := coordinator.PlanJob(c.Context(), given[0], *sets)
		if err != nil {
			return err
		}
		if inJSON {
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			err = e.Encode(p)
		} else {
			_, err = fmt.Fprint(c.OutOrStdout(), p.Text())
		}
		if err != nil {
			return fmt.Errorf("write plan: %w", err)
		}
		if err := p.Err(); err != nil {
			return exitStatus{coordinator.ExitBadInput, err}
		}
		return nil
	}
	return c
}
