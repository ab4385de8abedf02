// Package nodetest runs whole clusters of relays in one process, on real raft,
// Pebble, files and TCP, breaks them, and compares what is left.
//
// # What came in from outside once and did harm
//
// Each kind of input has tests that play it, or others like it. Packages are named
// where the test is not one of this package.
//
//	message whose Message-ID is folded, handed in twice, or on submission
//	    TestFoldedMessageID, TestFoldedMessageIDAtAnotherNode, TestFoldedFields, TestFormsOfMessageIDs
//	next hop that answers the end of a message twice; its next answer is a refusal
//	    queue/remote TestStrayReplyLosesNothing; smtp TestClientStrayReplies, TestClientStrayBehindAChunk
//	next hop that answers RCPT twice, then refuses the message
//	    queue/remote TestStrayReplyLosesNothing; smtp TestClientStrayReplies, TestClientStrayIsNamed
//	next hop whose replies have odd forms (tabs, many lines with several codes, long lines, no replies at all)
//	    queue/remote TestOddRepliesAreReplies, TestFormsOfReplies; smtp TestClientOddRepliesToTheMessage
//	first MX that answers all RCPTs 451 while the second takes everything
//	    queue/remote TestBackupMX
//	hop whose TLS fails once, and that refuses mail in clear
//	    queue/remote TestPassingTLSTroubleBouncesNothing, TestRequireTLSWaitsForTLS
//	MX host at a loopback address, also one mapped into IPv6; a report of success to such a domain
//	    queue/remote TestLoopsAreNotDialled, TestAliasesOfThisHost; TestReportsDoNotComeBack,
//	    TestNoSuccessWhereNothingWentOut
//	request of HTTP, or of another protocol, with mail in its body
//	    TestForeignProtocols, TestFormsOfForeignProtocols, TestHostileLines; smtp transcripts foreign-*
//	command line with a bare LF, CR or NUL, too long, or parted by tabs
//	    TestFormsOfLines; smtp transcripts bare-lf-*, long-line, auth-bare-lf
//	recipients as people write them
//	    TestStrangersAddresses, TestFormsOfRecipients; smtp/mailaddr TestParse, TestPath
//	password beyond ASCII, and a SCRAM client that prepares it
//	    TestFormsOfLogins; node/maildrop TestPasswordInAnotherForm, TestKeysHealAtALogin;
//	    smtp/sasl TestPasswordsBeyondASCII
//	Outlook, Thunderbird, scanners and printers at the submission and POP3 ports
//	    TestPeoplesPrograms, TestOutlookReadsMail; smtp and pop3 transcripts client-*
//	mutt, mpop and others with GNU SASL, over TLS; names of one account in several spellings
//	    deploy/e2e TestLoginsOfOtherPrograms, TestClients; TestFormsOfLogins
//	    smtp/sasl TestAuthorization, TestDowngrade
//	BINARYMIME message with a bare CR, LF or NUL in its header section
//	    TestBareHeaderOfStrangers, TestBareHeaderInChunks; node/inbound TestCleanSection
//	names in certificates, text in DNS, replies and filters that steer a terminal
//	    TestNamesInCertificatesOfHops, TestNamesInCertificatesOfClients, TestOthersText, TestStrangersText
//	data directory of one node with the configuration of another
//	    cmd/relayd TestAnotherNodesDirectoryIsRefused
//	new cluster addresses of most nodes while they are off
//	    cluster/clustertest TestTwoOfThreeAreRenumbered, TestAllAreRenumbered
//	leader whose clock is days ahead, and accounts with a retention
//	    TestNothingIsDeletedEarly, TestWrongClocksDelayNothing; cluster/clustertest TestALeaderWithAWrongClockHandsOver
//	author of a domain that is not the account's
//	    TestWhoseSignature; node/mailheader TestAuthors
//	mbox without empty lines, with a byte order mark, a Content-Length, CR line ends, deleted messages, dates in
//	its text; a message with a "From " line in front; a file of another server
//	    node/admin/mailfile TestFilesOfOtherPrograms, TestMboxForms, TestLinesThatBeginAMessage
//	Maildir from a system whose names have no colon
//	    node/admin/mailfile TestMaildirNames, TestMaildirInOrderOfArrival
//	large message over a slow or distant link
//	    smtp TestClientLargeMessageOverASlowLink, TestClientChunkBehindAFullBuffer
package nodetest
