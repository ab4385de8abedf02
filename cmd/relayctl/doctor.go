package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/table"
	"relay/node/admin"
)

func (a *app) doctorCmd() *cobra.Command {
	var o admin.ExamineOptions
	var all bool
	c := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong, and the safe next step", Args: cobra.NoArgs,
		Long: `Doctor judges some forty conditions: the nodes and their clocks, disks,
certificates, the queue, mailboxes, who may do what, and what DNS says of the
hostname and of the local domains. Of each that is not well it shows the figures
and what to do. What is of one node (its disk, configuration and certificates)
is that of the node that answers; name another with --addr.

It asks DNS, and with --outward connects to up to three mail hosts that mail
waits for. It changes nothing. It exits 3 where something is wrong; what can not
be judged is counted, and --all says why.`,
		Example: `  relayctl doctor
  relayctl doctor --all
  relayctl doctor --addr http://127.0.0.1:12280 -o json`,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				x, err := client.Examine(ctx, o)
				if err != nil {
					return err
				}
				if err := a.emit(x, func() { a.showExamination(x, all) }); err != nil {
					return err
				}
				if !x.OK {
					return errFound
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show each condition, also those that are well")
	c.Flags().BoolVar(&o.Outward, "outward", false, "also try to reach mail hosts that mail waits for")
	return c
}

// showExamination writes what is wrong, the worst first, and how many conditions
// are not.
func (a *app) showExamination(x *admin.Examination, all bool) {
	by := map[string][]admin.Condition{}
	for _, c := range x.Conditions {
		by[c.Severity] = append(by[c.Severity], c)
	}
	shown := []string{admin.SeverityError, admin.SeverityWarning}
	if all {
		shown = append(shown, admin.SeverityUnknown, admin.SeverityOK)
	}
	for _, severity := range shown {
		for _, c := range by[severity] {
			a.showCondition(&c)
		}
	}
	well, unknown := uint64(len(by[admin.SeverityOK])), uint64(len(by[admin.SeverityUnknown]))
	text := fmt.Sprintf("Node %s: %s well", clean(x.Node), plural(well, "condition is", "conditions are"))
	if unknown > 0 {
		text += fmt.Sprintf(", %d can not be judged", unknown)
	}
	if !all {
		text += "; --all shows each"
	}
	a.say("%s.", text)
}

func (a *app) showCondition(c *admin.Condition) {
	width, colour := a.room()
	mark := strings.ToUpper(c.Severity)
	code := map[string]string{admin.SeverityError: "31", admin.SeverityWarning: "33"}[c.Severity]
	if colour && code != "" {
		mark = "\x1b[" + code + "m" + mark + "\x1b[0m"
	}
	a.say("%s %s", mark, clean(c.Name))
	a.indented("  ", width, c.Summary)
	for _, e := range c.Evidence {
		a.indented("  - ", width, e)
	}
	if c.Next != "" {
		a.indented("  next: ", width, c.Next)
	}
	a.say("")
}

// indented writes a text behind a lead, its further lines below its first.
func (a *app) indented(lead string, width int, text string) {
	lines := []string{clean(text)}
	if width > 0 {
		lines = table.Fold(clean(text), max(width-len(lead), 20))
	}
	for _, line := range lines {
		a.say("%s%s", lead, line)
		lead = strings.Repeat(" ", len(lead))
	}
}
