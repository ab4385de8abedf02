package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/config"
)

func TestSetKeyReplacesValuesOnly(t *testing.T) {
	text := "# [node]\n[node] # who\nid = \"n1\"   # fixed for life\nx = 1\n[cluster]\nid = \"other\"\n[[smtp]]\n" +
		"id = \"third\"\n"
	require.Equal(t, "# [node]\n[node] # who\nid = \"n7\"   # fixed for life\nx = 1\n[cluster]\nid = \"other\"\n"+
		"[[smtp]]\nid = \"third\"\n",
		setKey(text, "node", "id", "n7"))
	require.Equal(t, text, setKey(text, "node", "absent", "v"))
}

func TestInitMakesANodeThatIsReadyToRun(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "etc", "relay.toml"), filepath.Join(dir, "data")
	args := []string{"init", "--config", file, "--id", "a", "--hostname", "mx.example.test", "--data-dir", data,
		"--advertise", "127.0.0.1:7170"}
	code, stdout, stderr := relayd(t, args...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "relayd run --config "+file)
	require.True(t, cluster.Initialised(data))

	c, err := config.Load(file)
	require.NoError(t, err)
	require.Equal(t, "a", c.Node.ID)
	require.Equal(t, "mx.example.test", c.Node.Hostname)
	require.Equal(t, "127.0.0.1:7170", c.Cluster.Advertise)
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(written), "# fixed for life", "the annotations stay")
	require.Equal(t, "mx.example.test", c.Verify.AuthservID, "nobody else's name")
	cert, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
	require.NoError(t, err)
	names := []string{"mx.example.test", "localhost", "127.0.0.1", "::1"}
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses { // of this machine
		if n := a.(*net.IPNet); !n.IP.IsLinkLocalUnicast() {
			names = append(names, n.IP.String())
		}
	}
	for _, name := range names {
		require.NoError(t, cert.Leaf.VerifyHostname(name), name)
	}
	token := filepath.Join(data, "admin.token")
	require.Contains(t, stdout, token)
	require.Equal(t, token, c.TokenPath())
	require.Empty(t, c.Warnings())
	secret := tokenIn(t, token)

	code, _, stderr = relayd(t, args...)
	require.Equal(t, exitFailed, code, stderr)
	require.Contains(t, stderr, "holds a node already")
	code, _, _ = relayd(t, append(args, "--once")...)
	require.Equal(t, exitOK, code)
	require.Equal(t, secret, tokenIn(t, token), "a token that is there stays")
	code, _, stderr = relayd(t, "init", "--config", file, "--id", "b")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "--id is b but")
}

// tokenIn reads a file with one good token that nobody else may read.
func tokenIn(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Regexp(t, `^\S{20,}\n$`, string(data))
	return string(data)
}

// TestInitMakesTheNamedTokenFile: also for a configuration that is there.
func TestInitMakesTheNamedTokenFile(t *testing.T) {
	dir := t.TempDir()
	file, token := filepath.Join(dir, "relay.toml"), filepath.Join(dir, "admin.token")
	text := "[node]\nid = \"n1\"\nhostname = \"mx.example.test\"\ndata_dir = \"" + dir + "/data\"\n" +
		"[cluster]\nlisten = \"127.0.0.1:7170\"\n[admin]\nlisten = \"127.0.0.1:7180\"\ntoken_file = \"" + token + "\"\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	code, _, stderr := relayd(t, "config", "check", file)
	require.Equal(t, exitWrong, code)
	require.Contains(t, stderr, "line 9: admin.token_file: there is no file "+token)
	code, stdout, stderr := relayd(t, "init", "--config", file)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, token)
	tokenIn(t, token)
	require.NoFileExists(t, filepath.Join(dir, "data", "admin.token"))
	code, _, stderr = relayd(t, "config", "check", file)
	require.Equal(t, exitOK, code)
	require.Empty(t, stderr)
}

// TestInitWhereTheUserMayNot: directories that can't be made are told with the cure, and
// nothing is left behind. Root may make all, so the test runs itself as another user.
func TestInitWhereTheUserMayNot(t *testing.T) {
	if dir := os.Getenv("INIT_IN"); dir != "" {
		for _, args := range [][]string{
			{"--config", dir + "/shut/relay.toml", "--data-dir", dir + "/open/data"},
			{"--config", dir + "/open/relay.toml", "--data-dir", dir + "/shut/relay"},
		} {
			args = append(args, "--hostname", "mx.example.test", "--advertise", "127.0.0.1:7170")
			code, _, stderr := relayd(t, append([]string{"init"}, args...)...)
			require.Equal(t, exitFailed, code)
			require.Regexp(t, `^relayd: (this user|user \S+) may not make `+dir+`/shut\S*: make it as root and give it `+
				"to that user, or name another directory\n$", stderr)
		}
		left, err := os.ReadDir(dir + "/open")
		require.NoError(t, err)
		require.Empty(t, left)
		return
	}
	dir, err := os.MkdirTemp("", "init")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	defer os.Chmod(dir, 0o755)
	require.NoError(t, os.Mkdir(dir+"/open", 0o777))
	require.NoError(t, os.Chmod(dir+"/open", 0o777))
	require.NoError(t, os.Chmod(dir, 0o555))
	other := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	if os.Getuid() == 0 {
		self, err := os.ReadFile(os.Args[0])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/self.test", self, 0o755))
		other = exec.Command(dir+"/self.test", "-test.run=^"+t.Name()+"$")
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	other.Dir, other.Env = dir, []string{"INIT_IN=" + dir, "HOME=" + dir}
	out, err := other.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestANodeIsMadeAnewWithItsConfiguration: where a node is no member any more its log
// says to move the data directory away and to join anew; the certificate of its own
// making has gone with that. One of somebody else's making is not replaced.
func TestANodeIsMadeAnewWithItsConfiguration(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "relay.toml"), filepath.Join(dir, "data")
	code, _, stderr := relayd(t, "init", "--config", file, "--hostname", "mx.example.test", "--data-dir", data,
		"--advertise", "10.9.8.7:7170")
	require.Equal(t, exitOK, code, stderr)
	require.NoError(t, os.Rename(data, filepath.Join(dir, "away")))
	code, stdout, stderr := relayd(t, "init", "--config", file)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "wrote a certificate of its own making at "+data+"/tls/relay.crt")
	cert, err := tls.LoadX509KeyPair(ownCertificate(data))
	require.NoError(t, err)
	for _, name := range []string{"mx.example.test", "localhost", "10.9.8.7"} {
		require.NoError(t, cert.Leaf.VerifyHostname(name))
	}

	require.NoError(t, os.RemoveAll(data))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	theirs := setKey(string(text), "tls", "cert", filepath.Join(data, "tls", "their.crt"))
	require.NoError(t, os.WriteFile(file, []byte(theirs), 0o600))
	code, _, stderr = relayd(t, "init", "--config", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "tls.cert: there is no file "+data+"/tls/their.crt")
	require.NoFileExists(t, filepath.Join(data, "tls", "relay.key"))
}

// TestAFormerConfigurationIsWarnedOf: without a token it works as it did.
func TestAFormerConfigurationIsWarnedOf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "relay.toml")
	text := "[node]\nid = \"n1\"\nhostname = \"mx.example.test\"\ndata_dir = \"" + dir + "/data\"\n" +
		"[cluster]\nlisten = \"127.0.0.1:7170\"\n[admin]\n"
	for _, test := range []struct{ line, warning string }{
		{"", "(umask 077; head -c 24 /dev/urandom | base64 > " + dir + "/data/admin.token)"},
		{"anonymous_loopback = true\n", ""},
		{"anonymous_loopback = false\n", "nobody may use the admin API"},
		{"token = \"x\"\n", ""},
	} {
		require.NoError(t, os.WriteFile(file, []byte(text+test.line), 0o600))
		code, _, stderr := relayd(t, "config", "check", file)
		require.Equal(t, exitOK, code)
		if test.warning == "" {
			require.Empty(t, stderr)
		} else {
			require.Contains(t, stderr, "warning: line 7: admin: ")
			require.Contains(t, stderr, test.warning)
		}
	}
}

// TestAnotherNodesDirectoryIsRefused: a configuration that was copied from
// another machine, or a data directory that was, must not make two nodes one.
func TestAnotherNodesDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "relay.toml"), filepath.Join(dir, "data")
	code, _, stderr := relayd(t, "init", "--config", file, "--id", "n2", "--data-dir", data, "--advertise",
		"127.0.0.1:7170")
	require.Equal(t, exitOK, code, stderr)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(setKey(string(text), "node", "id", "n3")), 0o600))
	for _, args := range [][]string{
		{"run", "--config", file},
		{"init", "--once", "--config", file},
		{"join", "--config", file, "--token", "rj1." + strings.Repeat("A", 64), "127.0.0.1:1"},
		{"recover", "--config", file, "--peers", "n3=127.0.0.1:7170"},
		{"recover", "--config", file, "--peers", "n3=127.0.0.1:7170", "--yes"},
	} {
		code, _, stderr := relayd(t, args...)
		require.Equal(t, exitFailed, code, args)
		require.Contains(t, stderr, "[node] id is n3, but "+data+" is node n2's", args)
	}
}

func TestInitRefusesNonsenseBeforeItWrites(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "relay.toml")
	code, _, stderr := relayd(t, "init", "--config", file, "--id", "not an id", "--data-dir", filepath.Join(dir, "d"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "node.id")
	require.NoFileExists(t, file)
	require.NoDirExists(t, filepath.Join(dir, "d"))
}

// TestJoinRefusesATokenBeforeItWrites: files that it left would be in the way of a try
// with other flags.
func TestJoinRefusesATokenBeforeItWrites(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "relay.toml")
	code, _, stderr := relayd(t, "join", "--config", file, "--data-dir", filepath.Join(dir, "d"), "--token", "rj1.cut",
		"127.0.0.1:1")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "cut short or mistyped")
	require.NoFileExists(t, file)
	require.NoDirExists(t, filepath.Join(dir, "d"))
}

func TestRunWantsAMember(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "relay.toml")
	require.NoError(t,
		os.WriteFile(file,
			[]byte("[node]\nid = \"n1\"\nhostname = \"n1\"\ndata_dir = \""+dir+"/data\"\n[cluster]\nadvertise = \"n1:7170\"\n"),
			0o600))
	code, _, stderr := relayd(t, "run", "--config", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "holds no node yet")
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "crt"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
	require.True(t, expired(cert))
	require.NoError(t, writeCertificate(cert, key, ca, []string{"localhost", "127.0.0.1", "::1"}))
	require.False(t, expired(cert))

	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	pem, err := os.ReadFile(ca)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		require.NoError(t, err, host)
	}
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
}
