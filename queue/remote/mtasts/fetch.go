package mtasts

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"relay/queue/remote/webguard"
)

// Fetch asks a domain's web server for its policy, RFC 8461 §3.3; port 0 is that of HTTPS. The web server's certificate
// has to be for mta-sts.DOMAIN.
func Fetch(ctx context.Context, web *webguard.Client, domain string, port int) (*Policy, error) {
	host := "mta-sts." + domain
	if !isName(host) {
		return nil, fmt.Errorf("%q is not the name of a web server", host)
	}
	if port != 0 {
		host += ":" + strconv.Itoa(port)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, err
	}
	resp, body, err := web.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the web server answered %d", resp.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return nil, fmt.Errorf("the web server's answer is not text/plain")
	}
	return Parse(string(body))
}
