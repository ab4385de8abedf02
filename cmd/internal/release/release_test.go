package release

import (
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// semver is the pattern of semver.org, without build metadata in front.
const semver = `^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`

func TestVersionIsSemantic(t *testing.T) {
	built := func(tag string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: tag}, Settings: settings}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef"}
	dirty := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for _, c := range []struct{ got, want string }{
		{version("1.2.3", built("v9.9.9")), "1.2.3"},
		{version("v1.2.3", built("")), "1.2.3"},
		{version(unset, built("v1.4.0")), "1.4.0"},
		{version(unset, built("(devel)", commit)), Next + "-dev+0123456789ab"},
		{version(unset, built("v0.0.0-20261129230000-0123456789ab", commit, dirty)), Next + "-dev+0123456789ab.dirty"},
		{version(unset, built("")), Next + "-dev"},
	} {
		require.Equal(t, c.want, c.got)
		require.Regexp(t, semver, c.got)
		require.NotContains(t, c.got, "devel")
	}
	require.Regexp(t, semver, Version())
}

// A version that the changelog describes as out is not the next release.
func TestNextIsNotOutYet(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/CHANGELOG.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(text), -1) {
		require.False(t, strings.HasPrefix(m[1], Next), "raise release.Next: %s is out", m[1])
	}
	docker, err := os.ReadFile("../../../deploy/Dockerfile")
	require.NoError(t, err)
	require.Contains(t, string(docker), "ARG VERSION="+Next)
	require.Contains(t, string(docker), "relay/cmd/internal/release.stamp=$VERSION")
}
