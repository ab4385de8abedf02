package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"relay/cmd/internal/release"
)

type version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of relayctl", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := built()
			return a.emit(v, func() { a.say("relayctl %s (%s, %s)", v.Version, orDash(v.Commit), v.Go) })
		},
	}
}

// built reads what the Go tool wrote into the program.
func built() version {
	v := version{Version: release.Version(), Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Commit = release.Commit(info)
	}
	return v
}
