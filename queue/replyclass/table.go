package replyclass

import "strings"

// line is a line of the table as it is written here.
type line struct {
	class   Class
	code    string // begin of the SMTP code; "own": the relay's own words; empty: any
	status  string // enhanced code without its class; empty: any
	phrases string // one of them, with | in between; empty: any text
}

// builtin is what lines says, made ready once.
var builtin = compile(lines)

func compile(lines []line) *table {
	t := &table{rules: make([]rule, len(lines)), phrases: map[begin][]phrase{}}
	for i, l := range lines {
		r := rule{class: l.class, code: l.code, status: l.status, phrases: l.phrases != ""}
		if r.own = l.code == "own"; r.own {
			r.code = ""
		}
		t.rules[i] = r
		if !r.phrases {
			continue
		}
		for text := range strings.SplitSeq(l.phrases, "|") {
			t.add(i, text)
		}
	}
	return t
}

// lines is the table. The order counts: first the relay's own words, then what only one class says, then what several
// may say in passing, at last the codes alone.
var lines = []line{
	// The relay's own words: packages queue, queue/remote, node/outbound.
	{Auth, "own", "", "route ... login|route ... its password can not be read"},
	{TLS, "own", "7.4", ""},
	{TLS, "own", "7.5", ""},
	{TLS, "own", "7.30", ""},
	{BadAddress, "own", "1.", ""},
	{DNS, "own", "4.3", ""},
	{DNS, "own", "4.4", ""},
	{DNS, "own", "4.6", ""},
	{DNS, "own", "3.5", "is this host cannot be told"},
	{Network, "own", "4.", "connection|greeting|answer|timed out"},

	// Greylisting: Postgrey, rspamd, Exim, milter-greylist, Mimecast, GMX, Orange.
	{Greylist, "4", "", "greylist*|graylist*|grey listed|gray listed|grey listing|gray listing|greyd|postgrey|" +
		"sqlgrey"},
	{Greylist, "451", "", "internal resources are temporarily unavailable|" +
		"internal resource temporarily unavailable"},
	{Greylist, "451", "7.1", "try again later|please try later|temporarily deferred try later"},
	{Greylist, "4", "", "first time we see|unknown mail sender host|not yet authorized to deliver mail from|" +
		"temporarily rejected try again later|try again in ... seconds|please retry in ... seconds|" +
		"retry later first contact"},

	// DNS of ours, before blocklists: "client host rejected" is said of both.
	{DNS, "", "", "does not have a ptr record|ptr resource record|ptr record ... not|no ptr record|missing ptr|" +
		"ptr lookup|no reverse dns|reverse dns ... missing|missing reverse dns|reverse dns lookup failed|" +
		"without reverse dns|invalid reverse dns|cannot find your hostname|cannot find your reverse hostname|" +
		"cannot resolve your hostname|rdns ... missing|no rdns|fcrdns|generic reverse dns|reverse lookup ... failed|" +
		"reverse mapping"},
	{DNS, "", "", "sender address rejected domain not found|sender domain not found|" +
		"domain of sender address ... not|sender domain must resolve|sender domain must exist|envelope sender domain|" +
		"sender domain resolve fail|no mx ... sender|sender ... has no a aaaa or mx dns records|" +
		"domain may not exist or dns check failed|sender address rejected malformed dns|" +
		"sender address rejected unverified|could not resolve your sender domain|unresolvable sender domain|" +
		"sender verify failed|domain ... sender ... does not exist"},
	{DNS, "", "7.25", ""},
	{DNS, "", "7.27", "null mx"},

	// Hosts also block and slow down for want of TLS.
	{TLS, "", "", "starttls|tls required|requires tls|require tls|requiretls|tls is required|must use tls|" +
		"sent over tls"},
	{Rate, "451", "7.500", ""},
	{Rate, "451", "7.650", ""},

	// The identity of the sender, before blocklists and rates: "blocked, as it is not authenticated".
	{Auth, "", "7.23", ""},
	{Auth, "", "7.26", ""},
	{Auth, "", "7.515", ""},
	{Auth, "", "7.509", ""},
	{Auth, "", "7.9", "sender is unauthenticated"},
	{Auth, "", "", "dmarc|dkim|spf|sender policy framework|unauthenticated|senderid|required authentication level|" +
		"sender domain ... not authenticated|sending domain ... authentication|dmarcrejection"},
	{Auth, "53", "", ""},
	{Auth, "454", "7.", "login|authentication"},
	{Auth, "", "7.57", ""},
	{Auth, "5", "", "authentication required|authentication is required|requires authentication|" +
		"smtp authentication|smtp auth|client was not authenticated|invalid credentials|authentication failed|" +
		"authentication credentials invalid|username and password not accepted|bad username or password|" +
		"must authenticate|authenticate first|sender address rejected not owned by user|" +
		"sender address rejected not logged in|send as denied|sendasdenied|not allowed to send as"},

	// Blocklists, and reputation: Spamhaus and others, as servers name them.
	{Blocklist, "", "", "spamhaus*|spamcop*|barracudacentral*|sorbs*|uceprotect*|abuseat.org|surbl*|mailspike*|" +
		"manitu*|dnsrbl*|invaluement*|ivmsip*|senderscore*|proofpoint.com*|abusix*|spamrats*|psbl*|truncate.gbudb*|" +
		"0spam*|hostkarma*|spamsources*|backscatterer*|cloudmark.com*|csi.mimecast*|talosintelligence*|senderbase*|" +
		"sender.office.com*|delist.microsoft*|nszones*|inps.de|barracuda reputation"},
	{Blocklist, "", "", "block list|blocklist*|black list*|blacklist*|block listed|deny list|denylist*|rbl|dnsbl|" +
		"rbls|dnsbls|realtime blackhole|is listed|are listed|listed at|listed in|listed by|banned sending ip|" +
		"banned sender|client host ... blocked using|blocked using|part of their network is on our block|s3140|s3150|" +
		"s775 blocked"},
	{Blocklist, "", "7.511", ""},
	{Blocklist, "", "7.606", ""},
	{Blocklist, "", "7.708", ""},
	{Blocklist, "5", "", "bl21|bl23"},
	{Blocklist, "", "", "reputation"},
	{Blocklist, "", "", "your ip ... blocked|your ip ... banned|ip address ... blocked|ip address ... banned|" +
		"ip ... blocked|your host ... blocked|your server ... blocked|your domain ... blocked|" +
		"your network ... blocked|ip ... rejected due|traffic not accepted from this ip|has been blocked by|" +
		"dynamic ip|dynamic ips|dialup|generic dns ptr records|bad sender ip|you are blocked|blocked for abuse|" +
		"blocked see http*|blocked see"},

	// Too much at a time: Google, Microsoft, Yahoo, Apple, Orange, Postfix, Exim.
	{Rate, "4", "", "tss*|ts01|ts02|ts03|rp 001|ofr004*|ofr104*|s775|s3114"},
	{Rate, "", "", "rate limit*|ratelimit*|rate limited|ratelimited|at a rate that|unusual rate|sending rate|" +
		"mail rate|message rate|too fast|too quickly|slow down|throttl*|too many messages|too much mail|" +
		"too many emails|too many mails|unexpected volume|mail flood|too many connections|too many concurrent|" +
		"too many simultaneous|too many sessions|too many smtp sessions|maximum number of concurrent|connection limit|" +
		"connections limit|connection rate|number of concurrent|concurrent server connections|" +
		"exceeded the maximum number of connections|too many recipients|too many rcpts|recipient limit|" +
		"recipients limit|sending limit|sending quota|hourly limit|daily limit|daily user|message limit|messages per|" +
		"emails per|mails per|peak smtp relay limit|maximum number of messages|thread limit|limit ... messages|" +
		"receivingrate*|exceeded ... rate|quota ... sending|email quota exceeded|too many unknown|too many invalid|" +
		"too many errors|too many bad"},
	{Rate, "", "7.28", ""},
	{Rate, "421", "7.0", "try again later closing connection"},
	{Rate, "", "5.3", ""},

	// TLS.
	{TLS, "", "", "tls not available|tls currently unavailable|tls negotiation|tls handshake|encryption required|" +
		"encryption needed|requires encryption|secure connection required|certificate ... validation|" +
		"certificate validation|certificate verif*|certificate ... expired|ssl required|need ssl|mta sts"},
	{TLS, "", "7.10", ""},
	{TLS, "", "7.11", ""},

	// The host's own disk, before mailboxes: "insufficient system storage" is nobody's mailbox.
	{System, "", "", "insufficient system|insufficient disk|space shortage|disk space|disk full|mail system full|" +
		"out of memory|insufficient resources|server is full"},

	// Full mailboxes.
	{Full, "", "2.2", ""},
	{Full, "", "", "mailbox full|mailbox is full|mailbox for user is full|mailbox is over quota|over quota|" +
		"overquota*|quota exceeded|exceeded ... quota|mailbox ... over ... quota|exceeds ... quota|quotaexceeded*|" +
		"quota exceed*|user quota|disk quota|quota violation|quota limit|out of storage space|storage full|" +
		"exceeded storage allocation|mailbox size limit|mailbox ... exceeded|mailbox limit|mailbox ... limit exceeded|" +
		"inbox is full|account is full|not enough space|no space left|mailbox has exceeded|boite pleine|" +
		"postfach ist voll|exceeded its storage|recipient storage|recipients inbox|delivery to mailbox ... quota|" +
		"overquotatemp|overquotaperm|mapiexceptionshutoffquotaexceeded"},

	// The size, before the rest of what is said of messages.
	{Content, "", "3.4", ""},
	{Content, "", "2.3", ""},
	{Content, "", "", "message too large|message too big|message is too large|message is too big|message size|" +
		"size limit|maximum size|too large for|exceeds ... size|exceeded ... size|message exceeds|" +
		"message length exceeds|larger than|recipsizelimit"},

	// Directory-based edge blocking of Microsoft says "access denied" of an address that it does not know.
	{BadAddress, "550", "4.1", "recipient address rejected access denied"},
	{BadAddress, "550", "1.4", "recipient address rejected access denied"},

	// Relaying, before addresses: such a host does not take the whole domain.
	{Policy, "", "", "relay access denied|relaying denied|relay denied|relay not permitted|relaying not allowed|" +
		"unable to relay|not allowed to relay|relaying is not|not permitted to relay|relay prohibited|we do not relay|" +
		"allowed rcpthosts|relay attempt*|isnt allowed to relay|cannot relay|no relaying"},

	// Bad addresses.
	{BadAddress, "5", "", "user unknown|unknown user|no such user|no such recipient|no such mailbox|" +
		"no such address|no such person|no such account|no such email|no such id|no such local user|user not found|" +
		"user ... not found|recipient not found|recipientnotfound|exrecipnotfound|recipient unknown|unknown recipient|" +
		"recipient not known|address unknown|unknown address|unknown local part|unknown mailbox|mailbox unknown|" +
		"mailbox not found|mailbox does not exist|address does not exist|account does not exist|user does not exist|" +
		"user doesnt exist|recipient does not exist|recipient doesnt exist|address doesnt exist|account doesnt exist|" +
		"does not exist here|email account that you tried to reach|account ... disabled|mailbox ... disabled|" +
		"account is disabled|account ... inactive|mailbox ... inactive|account ... suspended|" +
		"account has been deactivated|account closed|user disabled|disableduser|account is not active|" +
		"no longer active|no longer valid|no longer accepts|no longer on server|no longer available|invalid recipient|" +
		"invalid mailbox|invalid address|invalid user|invalid account|recipient invalid|not a valid recipient|" +
		"not a valid user|not a valid mailbox|not a known user|mailbox unavailable|mailbox is unavailable|" +
		"mailbox not available|user doesnt have a|user doesnt have an|unrouteable address|unroutable address|" +
		"undeliverable address|unverified address|no mailbox here|no mail box|not our customer|recipient unrecognized|" +
		"unrecognized recipient|address not found|bad destination mailbox|recipient ... not exist|no valid recipients|" +
		"no one by that name|no account by that name|recipient address rejected user|mailbox name not allowed|" +
		"accepts no mail|null mx|does not accept mail|tenant or domain not found|utilisateur inconnu|" +
		"destinataire inconnu|unbekannter empfänger|empfänger unbekannt|unable to find the recipient domain|" +
		"not able to find the recipient domain"},
	{BadAddress, "4", "", "user unknown|unverified address|undeliverable address|recipient unknown|" +
		"mailbox ... disabled|account ... disabled|account ... inactive|user ... not found"},

	// The message itself.
	{Content, "", "", "spam|junkmail|junk mail|unsolicited|spamtext|virus|malware|infected|phish*|trojan|eicar|" +
		"potential security issue|message content|mail content|content rejected|content filter|content policy|" +
		"contains a url|url in this|suspicious|malformed|attachment*|file type|executable|message id header|" +
		"valid address in from|from header|missing ... header|header ... missing|date header|8bit|non ascii|" +
		"line too long|bare lf|bare cr|bare newline|not rfc|rfc 5322|rfc5322|rfc 2822|duplicate header|bulk mail|" +
		"bulk email|banned content|high probability"},
	{Content, "", "6.", ""},

	// Policy.
	{Policy, "", "", "policy|policies|administrative prohibition|administratively|access denied|blocked|" +
		"rejected by|not allowed|not permitted|not authorized|unauthorized|prohibited|denied|restricted|restriction*|" +
		"refused|access rule*|helo command rejected|sender rejected|sender address rejected|client host rejected|" +
		"banned|complaints|abuse|deliverynotallowed|rejected your|not accepted"},

	// Networks and systems.
	{Network, "", "", "timeout exceeded|connection timed out|timeout closing|timed out|connection reset|" +
		"connection refused|idle too long|connection lost|no route to host|network is unreachable"},
	{DNS, "", "", "name service error|host not found|domain not found|dns lookup*|dns failure|dns error|" +
		"temporary lookup failure|temporary resolution|could not be looked up|lookup failed|no mx for"},
	{System, "4", "", "server busy|temporary system problem|system problem|local problem|local error|" +
		"internal error|internal server error|server error|server configuration|service unavailable|" +
		"service not available|not available|temporarily unavailable|temporarily rejected|temporary failure|" +
		"temporary error|try again later|try later|shutting down|maintenance|system not|overloaded|load average|" +
		"resources|unavailable"},
	{System, "5", "", "internal error|internal server error|server configuration|mail server error|local error|" +
		"loop*|too many hops|hop count|transaction failed"},

	// Enhanced codes (RFC 3463, RFC 5248, the IANA registry), where the words say nothing.
	{DNS, "", "1.8", ""},
	{Policy, "", "1.7", ""},
	{BadAddress, "5", "1.", ""},
	{BadAddress, "4", "1.", ""},
	{BadAddress, "", "2.1", ""},
	{BadAddress, "", "2.4", ""},
	{BadAddress, "", "7.17", ""},
	{BadAddress, "", "7.18", ""},
	{Network, "", "4.1", ""},
	{Network, "", "4.2", ""},
	{DNS, "", "4.3", ""},
	{DNS, "", "4.4", ""},
	{Rate, "", "4.5", ""},
	{System, "", "4.6", ""},
	{System, "", "3.", ""},
	{Auth, "", "7.8", ""},
	{Auth, "", "7.9", ""},
	{Auth, "", "7.20", ""},
	{Auth, "", "7.21", ""},
	{Auth, "", "7.22", ""},
	{Auth, "", "7.24", ""},
	{Auth, "", "7.29", ""},
	{TLS, "", "7.30", ""},
	{Policy, "", "7.", ""},

	// SMTP codes.
	{System, "421", "", ""},
	{System, "451", "", ""},
	{System, "452", "", ""},
	{TLS, "454", "", ""},
	{BadAddress, "551", "", ""},
	{BadAddress, "553", "", ""},
	{BadAddress, "556", "", ""},
	{Full, "552", "", ""},
	{Content, "523", "", ""},
	{Policy, "521", "", ""},
}
