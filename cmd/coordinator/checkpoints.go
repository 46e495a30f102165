package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func checkpointsCommand() *cobra.Command {
	return group("checkpoints", "list, verify and remove checkpoints",
		checkpointsList("list", "list a run's checkpoints, oldest first", false),
		checkpointsList("verify", "read every part of a run's checkpoints and check it", true),
		checkpointsRemove())
}

func checkpointsRemove() *cobra.Command {
	return &cobra.Command{Use: "rm RUN|STORE STEP...", Short: "remove a run's checkpoints of these steps", Args: args(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, given []string) error {
			var steps []int64
			for _, text := range given[1:] {
				step, err := strconv.ParseInt(text, 10, 64)
				if err != nil || step < 0 {
					return usage{fmt.Errorf("%q: want a step, as coordinator checkpoints list shows them", text)}
				}
				steps = append(steps, step)
			}
			return coordinator.RemoveCheckpoints(c.Context(), given[0], steps)
		}}
}

func checkpointsList(use, short string, verify bool) *cobra.Command {
	c := &cobra.Command{Use: use + " RUN|CHECKPOINT", Short: short, Args: args(cobra.ExactArgs(1))}
	asJSON := outputFlag(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		list, err := coordinator.Checkpoints(c.Context(), given[0], verify)
		if err != nil {
			return err
		}
		if inJSON {
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			err = e.Encode(list)
		} else {
			err = printCheckpoints(c, list, verify)
		}
		if err != nil {
			return fmt.Errorf("write list: %w", err)
		}
		damaged := 0
		for _, e := range list {
			if e.Fault != "" {
				damaged++
			}
		}
		if verify && damaged > 0 {
			return exitStatus{coordinator.ExitFailed, fmt.Errorf("%d of %d checkpoints are damaged", damaged, len(list))}
		}
		return nil
	}
	return c
}

func printCheckpoints(c *cobra.Command, list []coordinator.Checkpoint, verified bool) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "step\tgeneration\tworkers\tMiB\tstate\tmanifest")
	for _, e := range list {
		state := "committed"
		if !e.Committed {
			state = "uncommitted"
		}
		switch {
		case e.Fault != "":
			state = "damaged: " + e.Fault
		case verified:
			state += ", verified"
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%.1f\t%s\t%s\n", e.Step, e.Generation, e.WorldSize, float64(e.Bytes)/(1<<20), state, e.Key)
	}
	return w.Flush()
}
