"""Pages that servers send with status 200 in the place of a document, as real programs and sites write them; and pages
about such.

`FIRST` was written before the rules of `repli.tasks.text.stand_in`, `SECOND` and `THIRD` after them. As first seen, the
rules declined 17 of `SECOND` and 11 of `THIRD`; what was missed then taught them more, and so did 12 of `ABOUT`.
"""

from __future__ import annotations

NAVIGATION = (
    '<header id="site-header"><div class="logo"><a href="/">Northwind Outdoor</a></div><nav><ul>'
    + "".join(f'<li><a href="/c/{name.lower()}">{name}</a></li>' for name in ("Tents", "Packs", "Stoves", "Sale"))
    + '</ul></nav><form role="search" action="/search"><input type="search" name="q"><button>Search</button></form>'
    "</header>"
)
FOOTER = (
    '<footer><div class="cols"><h4>Customer service</h4><ul><li><a href="/returns">Returns</a></li><li>'
    '<a href="/shipping">Shipping</a></li></ul><h4>Newsletter</h4><p>Sign up and get 10% off your first order.</p>'
    "<p>© 2026 Northwind Outdoor Ltd. All rights reserved.</p></div></footer>"
)
STYLE = "<style>body{margin:0;font-family:system-ui,sans-serif}.c{max-width:60rem;margin:auto}</style>"

FIRST: dict[str, str] = {
    "cloudflare, managed challenge": """<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title>
<meta http-equiv="Content-Type" content="text/html; charset=UTF-8"><meta http-equiv="X-UA-Compatible"
content="IE=Edge">
<meta name="robots" content="noindex,nofollow"><meta name="viewport"
content="width=device-width,initial-scale=1">
<style>*{box-sizing:border-box;margin:0;padding:0}</style><meta http-equiv="refresh" content="360"></head>
<body><div class="main-wrapper" role="main"><div class="main-content"><noscript><div class="h2"><span
id="challenge-error-text">Enable JavaScript and cookies to continue</span></div></noscript></div></div>
<script>(function(){window._cf_chl_opt = {cvId: '3',cZone: 'www.example-shop.com',cType:
'managed'};})();</script>
</body></html>""",
    "cloudflare, older challenge": """<!DOCTYPE HTML><html lang="en-US"><head><meta charset="UTF-8"/>
<title>Please Wait... | Cloudflare</title><meta name="robots" content="noindex, nofollow"/></head><body>
<div class="cf-browser-verification cf-im-under-attack"><h1><span data-translate="checking_browser">Checking
your browser
before accessing</span> forum.example.org.</h1><p data-translate="process_is_automatic">This process is
automatic. Your
browser will redirect to your requested content shortly.</p><p>Please allow up to 5 seconds&hellip;</p></div>
<form id="challenge-form" action="/?__cf_chl_jschl_tk__=ab" method="POST"><input type="hidden" name="r"
value="x"></form>
<div class="attribution">DDoS protection by <a
href="https://www.cloudflare.com/5xx-error-landing/">Cloudflare</a><br>
<span class="ray_id">Ray ID: <code>7b1f0c9e2a3d</code></span></div></body></html>""",
    "perimeterx": """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Access to this page has
been
denied</title><link rel="icon" href="data:,"></head><body><section class="container"><div
class="customer-logo-wrapper">
<img src="/logo.png" alt="Logo"></div><div class="page-title-wrapper"><div class="page-title"><h1>Before we
continue...
</h1></div></div><div class="content-wrapper"><div class="content"><div id="px-captcha"></div><p>Press &amp;
Hold to
confirm you are a human (and not a bot).</p><p>Reference ID
#a1b2c3d4-0000-11ef-9f7b-3d1f</p></div></div></section>
<script>window._pxAppId='PXabc';</script><script
src="//captcha.px-cdn.net/PXabc/captcha.js"></script></body></html>""",
    "datadome": """<html lang="en"><head><title>marketplace.example</title><style>#cmsg{animation: A
1.5s;}</style></head>
<body style="margin:0"><p id="cmsg">Please enable JS and disable any ad blocker</p><script
data-cfasync="false">var
dd={'rt':'c','cid':'AHrlqAAAAAMA','hsh':'A55FBF','t':'bv','host':'geo.captcha-delivery.com'}</script>
<script data-cfasync="false" src="https://ct.captcha-delivery.com/c.js"></script></body></html>""",
    "amazon-like robot check": """<!DOCTYPE html><html class="a-no-js" lang="en-us"><head><title
dir="ltr">Store.example
</title></head><body><div class="a-container"><div class="a-row"><div class="a-box a-alert"><h4>Enter the
characters you
see below</h4><p class="a-last">Sorry, we just need to make sure you're not a robot. For best results, please
make sure
your browser is accepting cookies.</p></div><form method="get" action="/errors/validateCaptcha" name=""><input
type=hidden name="amzn" value="x"/><h4>Type the characters you see in this image:</h4><img
src="/captcha/x.jpg"><input
id="captchacharacters" name="field-keywords" type="text"><button type="submit">Continue
shopping</button></form></div>
<a href="/gp/help">Conditions of Use</a> <a href="/gp/privacy">Privacy Policy</a><br>© 1996-2026, Store.example,
Inc.
</div></body></html>""",
    "search engine, unusual traffic": """<html><head><meta http-equiv="content-type" content="text/html;
charset=utf-8">
<title>https://search.example/search?q=lamp</title></head><body><div style="max-width:400px;"><hr><form
id="captcha-form" action="index" method="post"><noscript><p>In order to continue, please enable
javascript.</p></noscript>
<div id="recaptcha" class="g-recaptcha" data-sitekey="6LfwuyUT"></div><input type='hidden' name='q'
value='EgQ'></form>
<hr><b>About this page</b><br><br>Our systems have detected unusual traffic from your computer network. This
page checks
to see if it's really you sending the requests, and not a robot. <a href="#">Why did this happen?</a><br><br>IP
address:
203.0.113.9<br>Time: 2026-05-01T10:11:12Z<br>URL: https://search.example/search?q=lamp</div></body></html>""",
    "news site, are you a robot": """<!doctype html><html lang=en><head><title>Markets Daily - Are you a
robot?</title>
<meta name="robots" content="noindex,nofollow"></head><body><section class="box"><h1 class="logo">Markets
Daily</h1>
<section class="main"><h2 class="main__heading">We've detected unusual activity from your computer
network</h2><p
class="continue">To continue, please click the box below to let us know you're not a robot.</p><div
id="px-captcha">
</div><section class="info__container"><h3>Why did this happen?</h3><p>Please make sure your browser supports
JavaScript
and cookies and that you are not blocking them from loading. For more information you can review our <a
href="/tos">Terms
of Service</a> and <a href="/cookie">Cookie Policy</a>.</p><h3>Need Help?</h3><p>For inquiries related to this
message
please <a href="/feedback">contact our support team</a> and provide the reference ID below.</p><p>Block
reference ID:
0f3b</p></section></section></section></body></html>""",
    "anubis": """<!doctype html><html lang="en"><head><title>Making sure you&#39;re not a bot!</title><meta
name="robots"
content="noindex,nofollow"><script id="anubis_challenge"
type="application/json">{"rules":{}}</script></head><body
id="top"><main><h1 id="title" class="centered-div">Making sure you&#39;re not a bot!</h1><div
class="centered-div"><img
id="image" src="/.within.website/x/pensive.webp"><p id="status">Loading...</p><details><summary>Why am I seeing
this?
</summary><p>You are seeing this because the administrator of this website has set up Anubis to protect the
server
against the scourge of AI companies aggressively scraping websites. This can and does cause downtime for the
websites,
which makes their resources inaccessible for everyone.</p><p>Anubis is a compromise. Anubis uses a Proof-of-Work
scheme
in the vein of Hashcash, a proposed proof-of-work scheme for reducing email
spam.</p></details></div><footer><p>Protected
by Anubis</p></footer></main></body></html>""",
    "akamai": """<HTML><HEAD>
<TITLE>Access Denied</TITLE>
</HEAD><BODY>
<H1>Access Denied</H1>

You don't have permission to access "http&#58;&#47;&#47;www&#46;airline&#46;example&#47;fares" on this
server.<P>
Reference&#32;&#35;18&#46;2d351ab8&#46;1557333295&#46;a4e16ab<P>https&#58;&#47;&#47;errors&#46;edgesuite&#46;net
</BODY></HTML>""",
    "cloudflare, blocked": """<!DOCTYPE html><html class="no-js" lang="en-US"><head><title>Attention Required!
|
Cloudflare</title><meta name="robots" content="noindex, nofollow"></head><body><div id="cf-wrapper"><div
class="cf-alert cf-alert-error cf-cookie-error" id="cookie-alert" data-translate="enable_cookies">Please enable
cookies.
</div><div id="cf-error-details" class="cf-error-details-wrapper"><div class="cf-wrapper cf-header
cf-error-overview"><h1
data-translate="block_headline">Sorry, you have been blocked</h1><h2 class="cf-subheadline"><span>You are unable
to
access</span> jobs.example.com</h2></div><div class="cf-section cf-columns"><h2>Why have I been
blocked?</h2><p>This
website is using a security service to protect itself from online attacks. The action you just performed
triggered the
security solution. There are several actions that could trigger this block including submitting a certain word
or phrase,
a SQL command or malformed data.</p><h2>What can I do to resolve this?</h2><p>You can email the site owner to
let them
know you were blocked. Please include what you were doing when this page came up and the Cloudflare Ray ID found
at the
bottom of this page.</p></div><div class="cf-error-footer"><p>Cloudflare Ray ID: <strong>8a1b2c</strong> • Your
IP:
203.0.113.9 • Performance &amp; security by <a
href="https://www.cloudflare.com">Cloudflare</a></p></div></div></div>
</body></html>""",
    "drupal, access denied in a whole page": f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<title>Access denied | Northwind Outdoor</title>{STYLE}</head><body class="layout-no-sidebars">{NAVIGATION}
<main role="main"><h1 class="page-title">Access denied</h1><div class="region-content">You are not authorized to
access
this page.</div></main>{FOOTER}</body></html>""",
    "wiki behind a log-in": f"""<!DOCTYPE html><html><head><title>Log In - Northwind Confluence</title><meta
charset="utf-8">
{STYLE}</head><body id="com-atlassian-confluence" class="theme-default login"><div id="header-precursor"></div>
<header id="header" role="banner"><nav class="aui-header"><a href="/">Northwind Confluence</a> <a
href="/login">Log
in</a></nav></header><section id="content"><form name="loginform" method="POST" action="/dologin.action"><h2>Log
in</h2>
<label for="os_username">Username</label><input type="text" name="os_username" id="os_username"><label
for="os_password">Password</label><input type="password" name="os_password" id="os_password"><input
type="checkbox"
name="os_cookie"> <label>Remember me</label><input type="submit" value="Log in"><a
href="/forgotuserpassword.action">Forgot
your password?</a></form></section><footer id="footer"><p>Powered by Atlassian Confluence
7.19.17</p></footer></body></html>""",
    "german shop for dealers": """<!DOCTYPE html><html lang="de"><head><meta charset="utf-8"><title>Anmelden -
Händlerportal
Nordlicht GmbH</title></head><body><div class="wrapper"><div class="top"><a href="/de/">Startseite</a> <a
href="/de/kontakt">Kontakt</a></div><div class="login-box"><h1>Anmelden</h1><p>Bitte melden Sie sich mit Ihren
Zugangsdaten an, um Preise und Verfügbarkeit zu sehen.</p><form action="/de/login"
method="post"><label>Kundennummer
<input name="user"></label><label>Passwort <input type="password"
name="pass"></label><button>Anmelden</button></form><p>
<a href="/de/passwort">Passwort vergessen?</a></p></div><div class="bottom">© Nordlicht GmbH | <a
href="/de/impressum">
Impressum</a> | <a href="/de/datenschutz">Datenschutz</a></div></div></body></html>""",
    "social network, wall without a form": """<!DOCTYPE html><html lang="en"><head><title>Sign Up |
Circle</title><meta
name="robots" content="noarchive"></head><body><main class="authwall"><div class="contextual"><h2>Join
Circle</h2><p>
Welcome back! To see this profile, please sign in to your account.</p><a class="btn"
href="/oauth/google">Continue with
Google</a><a class="btn" href="/join">Join now</a><p>By clicking Continue to join or sign in, you agree to
Circle’s <a
href="/legal">User Agreement</a>.</p><p>Already on Circle? <a href="/login">Sign
in</a></p></div></main></body></html>""",
    "board that asks to log in": f"""<!DOCTYPE html><html lang="en-gb"><head><meta
charset="utf-8"><title>Sailing Boards -
Login</title>{STYLE}</head><body id="phpbb" class="nojs notouch section-ucp ltr"><div id="wrap"><div
id="page-header"><h1>
Sailing Boards</h1><p>All about small boats</p><ul class="nav-main linklist"><li><a
href="/faq">FAQ</a></li><li><a
href="/ucp.php?mode=login">Login</a></li></ul></div><div id="page-body"><form action="./ucp.php?mode=login"
method="post"
id="login"><div class="panel"><div class="content"><h2 class="login-title">The board requires you to be
registered and
logged in to view this forum.</h2><fieldset><dl><dt><label for="username">Username:</label></dt><dd><input
type="text"
name="username" id="username"></dd></dl><dl><dt><label for="password">Password:</label></dt><dd><input
type="password"
id="password" name="password"></dd><dd><a href="/ucp.php?mode=sendpassword">I forgot my
password</a></dd></dl><input
type="submit" name="login" value="Login"></fieldset></div></div><div class="panel"><h3>Register</h3><p>In order
to login
you must be registered. Registering takes only a few moments but gives you increased capabilities. The board
administrator may also grant additional permissions to registered users. Before you register please ensure you
are
familiar with our terms of use and related policies.</p></div></form></div><div id="page-footer">Powered by
phpBB®
Forum Software © phpBB Limited</div></div></body></html>""",
    "wordpress": f"""<!DOCTYPE html><html lang="en-US"><head><meta charset="UTF-8"><meta name='robots'
content='noindex,
follow' /><title>Page not found - The Bread Diaries</title>{STYLE}</head><body class="error404
wp-embed-responsive
hfeed"><div id="page" class="site"><header id="masthead" class="site-header"><p class="site-title"><a
href="/">The Bread
Diaries</a></p><nav id="site-navigation"><a href="/about">About</a></nav></header><main id="primary"
class="site-main"><section
class="error-404 not-found"><header class="page-header"><h1 class="page-title">Oops! That page can&rsquo;t be
found.</h1>
</header><div class="page-content"><p>It looks like nothing was found at this location. Maybe try one of the
links below
or a search?</p><form role="search"><input type="search"></form><div class="widget"><h2>Recent
Posts</h2><ul><li><a
href="/rye">Rye with caraway</a></li><li><a href="/stollen">Stollen, at last</a></li></ul></div><div
class="widget"><h2>
Archives</h2><p>Try looking in the monthly archives. &#x1f642;</p></div></div></section></main><footer>Proudly
powered
by WordPress</footer></div></body></html>""",
    "shop": f"""<!doctype html><html lang="en"><head><title>404 Not Found &ndash; Northwind
Outdoor</title>{STYLE}</head>
<body class="template-404 gradient">{NAVIGATION}<main id="MainContent"><div class="template-404 page-width
center"><p>404
</p><h1 class="title">Page not found</h1><a href="/collections/all" class="button">Continue
shopping</a></div></main>
{FOOTER}</body></html>""",
    "single-page framework": """<!DOCTYPE html><html lang="en"><head><meta charSet="utf-8"/><title>404: This
page could not
be found</title><meta name="next-head-count" content="3"/></head><body><div id="__next"><div
style="height:100vh"><div>
<h1 class="next-error-h1" style="display:inline-block">404</h1><div style="display:inline-block"><h2>This page
could not
be found<!-- -->.</h2></div></div></div></div><script id="__NEXT_DATA__"
type="application/json">{"page":"/404"}</script>
</body></html>""",
    "french town": """<!DOCTYPE html><html lang="fr"><head><meta charset="utf-8"><title>Page introuvable |
Ville de
Montclair</title></head><body><div id="entete"><a href="/">Ville de Montclair</a><ul id="menu"><li><a
href="/mairie">La
mairie</a></li><li><a href="/ecoles">Écoles</a></li></ul></div><div id="contenu"><h1>Page introuvable</h1><p>La
page que
vous demandez n'existe pas ou a été déplacée depuis la refonte de notre site.</p><p>Vous pouvez utiliser le
moteur de
recherche ou revenir à la <a href="/">page d'accueil</a>.</p></div><div id="pied">Mairie de Montclair, 1 place
de
l'Église, ouverte du lundi au vendredi de 9 h à 17 h</div></body></html>""",
    "discussion that is private": """<!DOCTYPE html><html lang="en" class="desktop-view
not-mobile-device"><head><meta
charset="utf-8"><title>Maker Talk</title><meta name="generator" content="Discourse 3.2"></head><body
class="crawler"><header><a href="/">Maker Talk</a></header><div id="main-outlet" class="wrap" role="main"><div
class="page-not-found"><h1 class="title">Oops! That page doesn’t exist or is private.</h1><div
class="page-not-found-topics"><div class="popular-topics"><h2 class="popular-topics-title">Popular</h2><div
class="not-found-topic"><a href="/t/1">Welcome to Maker Talk</a> <a class="badge"
href="/c/meta">meta</a></div></div><div
class="recent-topics"><h2>Recent</h2><div class="not-found-topic"><a href="/t/99">PLA or PETG for
hinges?</a></div></div>
</div></div></div><footer>Powered by Discourse, best viewed with JavaScript enabled</footer></body></html>""",
}
SECOND: dict[str, str] = {
    "nginx": """<html>
<head><title>403 Forbidden</title></head>
<body>
<center><h1>403 Forbidden</h1></center>
<hr><center>nginx/1.18.0 (Ubuntu)</center>
</body>
</html>""",
    "apache": """<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">
<html><head>
<title>404 Not Found</title>
</head><body>
<h1>Not Found</h1>
<p>The requested URL /catalogue/lamp.html was not found on this server.</p>
<p>Additionally, a 404 Not Found error was encountered while trying to use an ErrorDocument to handle the
request.</p>
<hr><address>Apache/2.4.41 (Ubuntu) Server at www.lamps.example Port 443</address>
</body></html>""",
    "iis": """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN"><html
xmlns="http://www.w3.org/1999/xhtml"><head><meta
http-equiv="Content-Type" content="text/html; charset=iso-8859-1"/><title>404 - File or directory not
found.</title></head>
<body><div id="header"><h1>Server Error</h1></div><div id="content"><div
class="content-container"><fieldset><h2>404 - File
or directory not found.</h2><h3>The resource you are looking for might have been removed, had its name changed,
or is
temporarily unavailable.</h3></fieldset></div></div></body></html>""",
    "imperva": """<html style="height:100%"><head><META NAME="ROBOTS" CONTENT="NOINDEX, NOFOLLOW"><meta
name="format-detection" content="telephone=no"><meta name="viewport" content="initial-scale=1.0"></head><body
style="margin:0px;height:100%"><iframe id="main-iframe" src="/_Incapsula_Resource?SWUDNSAI=31&xinfo=5-123"
frameborder=0
width="100%" height="100%">Request unsuccessful. Incapsula incident ID:
1234000560000-2345</iframe></body></html>""",
    "aws waf": """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Human
Verification</title><style>body
{font-family:"Arial"}</style><script type="text/javascript">window.awsWafCookieDomainList = [];window.gokuProps
=
{"key":"AQID","iv":"x","context":"y"};</script><script
src="https://abc.eu-west-1.captcha-sdk.awswaf.com/abc/jsapi.js">
</script></head><body><div
id="captcha-container"></div><script>AwsWafIntegration.saveReferrer();</script><noscript><h1>
JavaScript is disabled</h1>In order to continue, you need to verify that you're not a robot by solving a CAPTCHA
puzzle.
</noscript></body></html>""",
    "vercel": """<!DOCTYPE html><html lang=en data-astro-cid-x><head><meta charset=utf-8><title>Vercel Security
Checkpoint</title></head><body><div class="container"><main><div id=root><div id=header><div id=spinner></div><p
id=header-text>We're verifying your browser</p><p id=header-noscript-text><noscript>Enable JavaScript to
continue</noscript>
</p></div></div></main><footer><p>Vercel Security Checkpoint | <span
id=fi>fra1::1730-x</span></p></footer></div></body>
</html>""",
    "reddit-like": """<!DOCTYPE html><html><head><title>Threadit</title><style>.x{}</style></head><body><div
class="theme-beta">
<div style="display:flex"><svg></svg><h1 class="h2">You've been blocked by network security.</h1><p>To continue,
log in to
your Threadit account or use your developer token</p><p>If you think you've been blocked by mistake, file a
ticket below
and we'll look into it.</p><a href="/login">Log in</a><a href="/ticket">File a
ticket</a></div></div></body></html>""",
    "django admin": """<!DOCTYPE html><html lang="en-us" dir="ltr"><head><title>Log in | Django site
admin</title><link
rel="stylesheet" href="/static/admin/css/base.css"><meta name="robots" content="NONE,NOARCHIVE"></head><body
class="
login"><div id="container"><header id="header"><div id="branding"><div id="site-name"><a href="/admin/">Django
administration</a></div></div></header><div class="main" id="main"><div id="content-main"><form
action="/admin/login/"
method="post" id="login-form"><input type="hidden" name="csrfmiddlewaretoken" value="x"><div
class="form-row"><label
for="id_username">Username:</label> <input type="text" name="username" required></div><div
class="form-row"><label
for="id_password">Password:</label><input type="password" name="password" required></div><div
class="submit-row"><input
type="submit" value="Log in"></div></form></div></div></div></body></html>""",
    "office": """<!DOCTYPE html><html dir="ltr" lang="en"><head><title>Sign in to your account</title><meta
name="robots"
content="none"/><meta name="PageID" content="ConvergedSignIn"/></head><body><div><form name="f1"
method="post"><div
class="login-paginated-page"><div role="heading" aria-level="1">Sign in</div><input type="email" name="loginfmt"
placeholder="Email, phone, or Skype"><div>No account? <a href="#">Create one!</a></div><div><a href="#">Can’t
access your
account?</a></div><input type="submit" value="Next"></div></form><div id="footer">©2026 Contoso <a
href="#">Terms of
use</a></div></div></body></html>""",
    "gitlab": """<!DOCTYPE html><html class="gl-light ui-neutral" lang="en"><head><title>Sign in ·
GitLab</title><meta
content="GitLab Community Edition" property="og:description"><meta property="og:type"
content="object"></head><body
class="login-page application navless"><div class="container"><div class="row"><div class="col"><h1>GitLab
Community
Edition</h1><p>This is a self-managed instance of GitLab. Contributors write to the address in the handbook to
get an
account; new projects are created by the administrators of each department.</p></div><div class="col"><form
action="/users/sign_in" method="post"><label>Username or primary email</label><input
name="user[login]"><label>Password
</label><input type="password" name="user[password]"><a href="/users/password/new">Forgot your
password?</a><label>Remember
me</label><button>Sign in</button></form></div></div></div><div class="footer"><a href="/explore">Explore</a> <a
href="/help">Help</a> <a href="https://about.gitlab.com">About GitLab</a></div></body></html>""",
    "mediawiki": """<!DOCTYPE html><html class="client-nojs" lang="en"><head><meta charset="UTF-8"><title>Login
required -
Lab Wiki</title><meta name="robots" content="noindex,nofollow"></head><body class="mediawiki ltr sitedir-ltr
ns--1
ns-special skin-vector"><div id="mw-page-base"></div><div id="content" class="mw-body" role="main"><h1
id="firstHeading"
class="firstHeading">Login required</h1><div id="bodyContent"><div id="siteSub">From Lab Wiki</div><div
id="mw-content-text"><p>Please <a href="/index.php?title=Special:UserLogin">log in</a> to view other
pages.</p><p
id="mw-returnto">Return to <a href="/index.php/Main_Page">Main Page</a>.</p></div></div></div><div
id="mw-navigation"><h2>Navigation menu</h2><div role="navigation"><ul><li><a>Log
in</a></li></ul></div></div><div
id="footer"><ul><li><a>Privacy policy</a></li></ul></div></body></html>""",
    "moodle": f"""<!DOCTYPE html><html lang="en"><head><title>Log in to the site | Coast University
Learning</title>{STYLE}
</head><body id="page-login-index" class="format-site path-login"><div id="page-wrapper"><div id="page"><div
class="login-container"><h1 class="login-heading">Log in to Coast University Learning</h1><form
class="login-form"
method="post"><input type="text" name="username" placeholder="Username"><input type="password" name="password"
placeholder="Password"><button>Log in</button><a href="/forgot">Lost password?</a></form><h2>Is this your first
time here?
</h2><div>For full access to this site, you first need to create an account. Students use the number on their
card, and
the password that they got by mail; guests ask their course leader.</div></div></div><footer>You are not logged
in.
</footer></div></body></html>""",
    "facebook-like": """<!DOCTYPE html><html lang="en" id="facebook"><head><title>Friendbook</title><meta
name="robots"
content="noodp,noydir"></head><body><div id="globalContainer"><div class="uiHeader"><a
href="/">Friendbook</a></div><div
id="content"><img alt=""><h2 class="title">This content isn't available right now</h2><div class="body">When
this happens,
it's usually because the owner only shared it with a small group of people, changed who can see it or it's been
deleted.
</div><a href="/feed">Go to News Feed</a><a href="/back">Go back</a><a href="/help">Visit Help
Center</a></div></div></body>
</html>""",
    "squarespace": f"""<!doctype html><html lang="en-GB"><head><meta charset="utf-8"><title>Page Not Found —
Studio Ardent
</title><meta property="og:site_name" content="Studio Ardent">{STYLE}</head><body id="not-found"
class="not-found-page">
<header><a href="/">Studio Ardent</a><nav><a href="/work">Work</a><a
href="/contact">Contact</a></nav></header><main
id="page" role="main"><p>We couldn't find the page you were looking for. This is either
because:</p><ul><li>There is an
error in the URL entered into your web browser. Please check the URL and try again.</li><li>The page you are
looking for
has been moved or deleted.</li></ul><p>You can return to our homepage by <a href="/">clicking here</a>, or you
can try
searching for the content you are seeking by <a href="/search">clicking here</a>.</p></main><footer>12 Mill
Lane,
Bristol. Open Tuesday to Saturday, 10 to 6.</footer></body></html>""",
    "spanish newspaper": """<!DOCTYPE html><html lang="es"><head><meta charset="utf-8"><title>Error 404 -
Página no encontrada
| Diario del Puerto</title></head><body><div class="cookies">Utilizamos cookies propias y de terceros para
mejorar
nuestros servicios y mostrarle publicidad relacionada con sus preferencias mediante el análisis de sus hábitos
de
navegación. Si continúa navegando, consideramos que acepta su uso. <a href="/cookies">Más
información</a></div><div
class="cabecera"><a href="/">Diario del Puerto</a><ul><li><a href="/local">Local</a></li><li><a
href="/deportes">Deportes</a></li></ul></div><div class="cuerpo"><h1>Lo sentimos</h1><p>La página que busca no
existe o ha
cambiado de dirección. Puede volver a la <a href="/">portada</a>.</p><h3>Lo más leído</h3><ol><li><a
href="/1">El puerto
cierra por el temporal</a></li><li><a href="/2">Suben las tasas de amarre</a></li></ol></div><div
class="pie">Diario del
Puerto, S.L. Inscrita en el Registro Mercantil, tomo 123, folio 45. Reservados todos los
derechos.</div></body></html>""",
    "japanese shop": """<!DOCTYPE html><html
lang="ja"><head><meta charset="utf-8"><title>ページが見つかりません |
灯りの店</title>
</head><body><div id="header"><a href="/">灯りの店</a></div><div
id="main"><h1>お探しのページは見つかりませんでした</h1><p>ページが移動
または削除された可能性があります。お手数ですが、トップページからお探しください。</p><a
href="/">トップへ戻る</a></div><div id="footer">© 灯りの店
</div></body></html>""",
    "sucuri": """<!DOCTYPE html><html lang="en"><head><title>Sucuri WebSite Firewall - Access
Denied</title><meta name="robots"
content="noindex, nofollow"></head><body><div id="main-container"><header class="app-header clearfix"><div
class="wrap"><span
class="logo-neartext">Website Firewall</span><a href="https://sucuri.net/" class="site-link">Back to
sucuri.net</a></div>
</header><section class="app-content access-denied clearfix"><div class="box center width-max-940"><h1
class="brand-font font-size-xtra no-margin"><i class="icon-circle-red"></i>Access Denied - Sucuri Website
Firewall</h1><p
class="medium-text code-snippet">If you are the site owner (or you manage this site), please whitelist your IP
or if you
think this block is an error please <a href="#">open a support ticket</a> and make sure to include the block
details
(displayed in the box below), so we can assist you in troubleshooting the issue.</p><h2>Block
details:</h2><table
class="property-table"><tr><td>Your
IP:</td><td>203.0.113.9</td></tr><tr><td>URL:</td><td>example.org/post</td></tr><tr><td>
Block reason:</td><td>Access from your Country was disabled by the
administrator.</td></tr></table></div></section></div>
</body></html>""",
    "wordfence": """<!DOCTYPE html><html lang="en"><head><title>Your access to this site has been limited by
the site
owner</title><meta name="robots" content="noindex"></head><body><div class="wf-block"><h1>Your access to this
site has been
limited by the site owner</h1><p>Your access to this service has been limited. (HTTP response code 503)</p><p>If
you think
you have been blocked in error, contact the owner of this site for assistance.</p><h2>Block Technical
Data</h2><table><tr>
<th>Block Reason:</th><td>Exceeded the maximum number of page requests per minute for
humans.</td></tr><tr><th>Time:</th>
<td>Tue, 5 May 2026 10:11:12 GMT</td></tr></table><h2>About Wordfence</h2><p>Wordfence is a security plugin
installed on
over 5 million WordPress sites. The owner of this site is using Wordfence to manage access to their
site.</p></div></body>
</html>""",
    "cloudflare, rate limit": """<!DOCTYPE html><html lang="en-US"><head><title>Access denied |
api.parts.example used
Cloudflare to restrict access</title><meta name="robots" content="noindex, nofollow"></head><body><div
id="cf-wrapper">
<div id="cf-error-details" class="p-0"><header class="mx-auto"><h1 class="inline-block"><span>Error</span>
<span>1015</span>
</h1><span>Ray ID: 7c1d • 2026-05-01 10:11:12 UTC</span><h2>You are being rate
limited</h2></header><section><h2>What
happened?</h2><p>The owner of this website (api.parts.example) has banned you temporarily from accessing this
website.</p>
</section></div></div></body></html>""",
    "publisher, cookies": f"""<!DOCTYPE html><html lang="en"><head><title>Cookie Absent | Journal of
Tides</title>
<meta name="robots" content="noindex">{STYLE}</head><body>{NAVIGATION}<main><h1>Cookies disabled</h1><p>An error
occurred
because there was no session cookie in your request. Journals use cookies to improve performance by remembering
that you
are logged in when you go from page to page.</p><p>To allow this site to use cookies, use the steps that apply
to your
browser, then open the article again.</p></main>{FOOTER}</body></html>""",
}
THIRD: dict[str, str] = {
    "code host": """<!DOCTYPE html><html><head><meta http-equiv="Content-type" content="text/html;
charset=utf-8"><title>Page not found &middot; Git
Pages</title><style>body{background:#f1f1f1}</style></head><body><div
class="container"><h1>404</h1><p><strong>File not found</strong></p><p>The site configured at this address does
not contain the requested file.</p><p>If this is your site, make sure that the filename case matches the URL as
well as any file permissions.<br>For root URLs (like <code>http://example.com/</code>) you must provide an
<code>index.html</code> file.</p><p><a href="https://help.example/pages/">Read the full documentation</a> for
more information about using <strong>Git Pages</strong>.</p><div id="suggestions"><a
href="https://status.example">Site Status</a></div></div></body></html>""",
    "ghost": f"""<!DOCTYPE html><html lang="en"><head><title>404 — Page not found</title>{STYLE}</head><body
class="error-template"><div class="site-wrapper"><header class="site-header"><a href="/">The Night
Baker</a></header><main class="outer error-content"><div class="inner"><section class="error-message"><h1
class="error-code">404</h1><p class="error-description">Page not found</p><a class="error-link" href="/">Go to
the front page →</a></section></div></main><aside class="outer"><div class="post-feed"><article
class="post-card"><h2>Rye in winter</h2><p>What the cold does to a sour dough, and how to help it along with an
old lamp.</p></article></div></aside></div></body></html>""",
    "blogger": """<!DOCTYPE html><html dir='ltr' lang='en'><head><title>Lamps and Lanterns: Page not
found</title><meta content='blogger' name='generator'/></head><body class='error_page'><div class='header'><h1
class='title'><a href='/'>Lamps and Lanterns</a></h1><p class='description'>Notes of a collector</p></div><div
class='main'><div class='status-msg-wrap'><div class='status-msg-body'>Sorry, the page you were looking for in
this blog does not exist.</div></div></div><div class='sidebar'><h2>About me</h2><p>Collector of lamps since
1988, from Leeds.</p></div></body></html>""",
    "joomla": """<!DOCTYPE html><html lang="en-gb"><head><title>404 - Article not
found</title></head><body><div class="error"><div id="outline"><div id="errorboxoutline"><div
id="errorboxheader">404 - Article not found</div><div id="errorboxbody"><p><strong>You may not be able to visit
this page because of:</strong></p><ol><li>an out-of-date bookmark/favourite</li><li>a search engine that has an
out-of-date listing for this site</li><li>a mistyped address</li><li>you have no access to this page</li><li>The
requested resource was not found.</li><li>An error has occurred while processing your
request.</li></ol><p><strong>Please try one of the following pages:</strong></p><ul><li><a href="/">Home
Page</a></li></ul><p>If difficulties persist, please contact the System Administrator of this site and report
the error below.</p><div id="techinfo"><p>Article not found</p></div></div></div></div></div></body></html>""",
    "magento": f"""<!doctype html><html lang="en"><head><title>404 Not Found</title><meta name="robots"
content="INDEX,FOLLOW">{STYLE}</head><body class="cms-no-route cms-noroute-index">{NAVIGATION}<main
id="maincontent"><h1 class="page-title"><span>Whoops, our bad...</span></h1><dl><dt>The page you requested was
not found, and we have a fine guess why.</dt><dd><ul><li>If you typed the URL directly, please make sure the
spelling is correct.</li><li>If you clicked on a link to get here, the link is
outdated.</li></ul></dd></dl><dl><dt>What can you do?</dt><dd>Have no fear, help is near! There are many ways
you can get back on track with our store.</dd><dd><ul><li><a href="#">Go back</a> to the previous
page.</li><li>Use the search bar at the top of the page to search for your
products.</li></ul></dd></dl></main>{FOOTER}</body></html>""",
    "polish shop": f"""<!doctype html><html lang="pl"><head><title>404 Nie znaleziono strony - Lampy
Kowalski</title>{STYLE}</head><body id="pagenotfound" class="lang-pl"><div class="top"><a href="/">Lampy
Kowalski</a> <a href="/koszyk">Koszyk</a></div><section id="content" class="page-content page-not-found"><h4>Nie
znaleziono strony</h4><p>Przepraszamy za niedogodności. Wyszukaj ponownie to, czego szukasz.</p></section><div
class="stopka">Lampy Kowalski, ul. Długa 5, Kraków. Infolinia od poniedziałku do piątku w godzinach
9-17.</div></body></html>""",
    "tomcat": """<!doctype html><html lang="en"><head><title>HTTP Status 404 – Not Found</title><style
type="text/css">h1 {color:white}</style></head><body><h1>HTTP Status 404 – Not Found</h1><hr class="line"
/><p><b>Type</b> Status Report</p><p><b>Message</b> The requested resource [&#47;lamps&#47;7] is not
available</p><p><b>Description</b> The origin server did not find a current representation for the target
resource or is not willing to disclose that one exists.</p><hr class="line" /><h3>Apache Tomcat/9.0.58
(Ubuntu)</h3></body></html>""",
    "spring": """<html><body><h1>Whitelabel Error Page</h1><p>This application has no explicit mapping for
/error, so you are seeing this as a fallback.</p><div id='created'>Tue May 05 10:11:12 UTC 2026</div><div>There
was an unexpected error (type=Not Found, status=404).</div><div>No message available</div></body></html>""",
    "keycloak": """<!DOCTYPE html><html class="login-pf"><head><meta charset="utf-8"><meta name="robots"
content="noindex, nofollow"><title>Sign in to Harbour Lab</title></head><body><div class="login-pf-page"><div
id="kc-header"><div id="kc-header-wrapper">Harbour Lab</div></div><div class="card-pf"><header
class="login-pf-header"><h1 id="kc-page-title">Sign in to your account</h1></header><div id="kc-content"><form
id="kc-form-login" method="post"><label for="username">Username or email</label><input id="username"
name="username" type="text"><label for="password">Password</label><input id="password" name="password"
type="password"><input name="login" id="kc-login" type="submit" value="Sign In"></form><div
id="kc-registration"><span>New user? <a href="#">Register</a></span></div></div></div></div></body></html>""",
    "okta": """<!DOCTYPE html><html lang="en"><head><title>Coast University - Sign In</title><meta
name="robots" content="none"></head><body class="auth okta-container"><div class="content"><div
class="applogin-banner"><div class="applogin-app-title">Connecting to <b>Library Reader</b></div><p>Sign in with
your Coast University account to access Library Reader</p></div><div id="okta-login-container"></div><div
id="okta-sign-in"><noscript><h1>JavaScript Required</h1><p>Javascript is disabled on your browser. Please enable
Javascript and refresh this page.</p></noscript></div></div><div class="footer">Powered by <a
href="#">Okta</a></div></body></html>""",
    "nextcloud": """<!DOCTYPE html><html class="ng-csp" lang="de"><head><title>Anmelden – Nordlicht
Cloud</title><meta name="robots" content="noindex, nofollow"></head><body id="body-login"><noscript><div
id="nojavascript"><div>Diese Anwendung benötigt JavaScript zum ordnungsgemäßen
Betrieb.</div></div></noscript><div class="wrapper"><header><div id="header"><h1
class="hidden-visually">Nordlicht Cloud</h1></div></header><main><div id="login"></div></main></div><footer
class="guest-box"><p class="info"><a href="#">Nordlicht Cloud</a> – Ein sicherer Ort für all deine
Daten</p></footer></body></html>""",
    "xenforo": """<!DOCTYPE html><html id="XF" lang="en-US"><head><title>Log in | Radio Amateurs
Forum</title><meta name="robots" content="noindex"></head><body data-template="error"><div
class="p-pageWrapper"><header class="p-header"><a href="/">Radio Amateurs Forum</a></header><div
class="p-nav"><a href="/login">Log in</a> <a href="/register">Register</a></div><div class="p-body"><h1
class="p-title-value">Log in</h1><div class="blockMessage blockMessage--error">You must be logged-in to do
that.</div><form action="/login/login" method="post"><label>Your name or email address</label><input
name="login"><label>Password</label><input type="password" name="password"><label>Stay logged
in</label><button>Log in</button></form></div></div></body></html>""",
    "vbulletin": """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"><html><head><title>Old
Tractors Forum</title></head><body><div class="above_body"><a href="/">Old Tractors Forum</a></div><div
class="standard_error"><form class="block vbform" action="login.php?do=login" method="post"><h2
class="blockhead">vBulletin Message</h2><div class="blockbody formcontrols"><p class="blockrow restore">You are
not logged in or you do not have permission to access this page. This could be due to one of several
reasons:</p><ol><li>You are not logged in. Fill in the form at the bottom of this page and try
again.</li><li>You may not have sufficient privileges to access this page. Are you trying to edit someone else's
post?</li><li>If you are trying to post, the administrator may have disabled your account, or it may be awaiting
activation.</li></ol><h3>Log in</h3><label>User Name:</label><input type="text"
name="vb_login_username"><label>Password:</label><input type="password"
name="vb_login_password"></div></form></div></body></html>""",
    "photo network": """<!DOCTYPE html><html lang="en"><head><title>Login • Photogram</title><meta
name="robots" content="noimageindex, noarchive"><meta property="og:type" content="profile"></head><body><div
id="react-root"><section><main role="main"><article><div><h1>Photogram</h1><div><form method="post"><label>Phone
number, username, or email</label><input name="username"><label>Password</label><input name="password"
type="password"><button>Log in</button></form><div>OR</div><a href="#">Log in with Friendbook</a><a
href="#">Forgot password?</a></div></div><div>Don't have an account? <a href="#">Sign
up</a></div></article></main></section></div></body></html>""",
    "cloudflare, captcha": """<!DOCTYPE html><html lang="en-US"><head><title>Attention Required! |
Cloudflare</title></head><body><div id="cf-wrapper"><div class="cf-wrapper cf-header cf-error-overview"><h1
data-translate="challenge_headline">One more step</h1><h2 class="cf-subheadline">Please complete the security
check to access tractors.example</h2></div><div class="cf-section cf-highlight cf-captcha-container"><form
class="challenge-form" id="challenge-form" action="/x" method="get"><div class="g-recaptcha"
data-sitekey="x"></div></form></div><div class="cf-section"><h2>Why do I have to complete a
CAPTCHA?</h2><p>Completing the CAPTCHA proves you are a human and gives you temporary access to the web
property.</p><h2>What can I do to prevent this in the future?</h2><p>If you are on a personal connection, like
at home, you can run an anti-virus scan on your device to make sure it is not infected with
malware.</p></div><div class="cf-error-footer">Cloudflare Ray ID: 5f • Your IP:
203.0.113.9</div></div></body></html>""",
    "siteground": """<html><head><title>Robot Challenge Screen</title><meta name="viewport"
content="width=device-width"><script>const sgchallenge="20:1690";</script></head><body><div
class="spinner-container"><div class="spinner"></div></div><div class="content"><h1>Checking the site connection
security</h1><p>www.tractors.example needs to review the security of your connection before
proceeding.</p><noscript>The server has asked your browser to run a small script.</noscript></div></body></html>""",
    "too many": """<html>
<head><title>429 Too Many Requests</title></head>
<body>
<center><h1>429 Too Many Requests</h1></center>
<hr><center>openresty</center>
</body>
</html>""",
    "azure": """<!DOCTYPE html><html lang="en"><head><title>Service unavailable</title></head><body><div
id="content"><div id="message"><h2>Our services aren't available right now</h2><p>We're working to restore all
services as soon as possible. Please check back soon.</p></div><div
id="info"><span>0aXg7Yg</span></div></div></body></html>""",
    "wordpress, not allowed": """<!DOCTYPE html><html lang="en-US"><head><meta name='robots'
content='max-image-preview:large, noindex, follow' /><title>WordPress &rsaquo; Error</title></head><body
id="error-page"><div class="wp-die-message">Sorry, you are not allowed to access this page.</div></body></html>""",
    "italian portal": f"""<!DOCTYPE html><html lang="it"><head><title>Pagina non trovata - Comune di
Vallescura</title>{STYLE}</head><body><div class="skiplinks"><a href="#main">Vai ai contenuti</a></div><div
class="it-header"><a href="/">Comune di Vallescura</a></div><div class="container" id="main"><h1>Pagina non
trovata</h1><p>Oops! La pagina che cerchi non è stata trovata. Potrebbe essere stata spostata o rimossa.</p><a
href="/">Torna alla home</a></div><div class="it-footer"><p>Piazza Garibaldi 1, 12010 Vallescura. Codice fiscale
00412345678. Posta certificata: protocollo@pec.vallescura.example. Ufficio relazioni con il pubblico aperto dal
lunedì al venerdì dalle 9 alle 12.</p></div></body></html>""",
}
ABOUT: dict[str, str] = {
    "glossary 404": """<!DOCTYPE html><html lang="en"><head><title>404 Not Found - HTTP | Web
Docs</title></head><body><nav><a>References</a></nav><header><input type=search></header><main><h1>404 Not
Found</h1><p>The HTTP <b>404 Not Found</b> client error response status code indicates that the server cannot
find the requested resource. Links that lead to a 404 page are often called broken or dead links and can be
subject to link rot.</p><p>A 404 status code only indicates that the resource is missing without indicating if
this is temporary or permanent. If a resource is permanently removed, servers should send the 410 Gone status
instead.</p></main></body></html>""",
    "docs sign in": """<!DOCTYPE html><html lang="en"><head><title>Sign in | Lantern
Handbook</title></head><body><header><a>Docs</a></header><main><h1>Sign in</h1><p>Lantern supports three ways to
sign in. Choose one under Settings, Security.</p><ol><li>With a password: enter the address of your workspace,
then your name and password. Five wrong attempts lock the account for ten minutes.</li><li>With a key: plug it
in, and touch it when it blinks. Keys of any maker work that speak FIDO2.</li><li>By your company: your
administrator sets up SAML, see the page on identity providers.</li></ol><p>Sessions end after twelve hours
without activity.</p></main></body></html>""",
    "blog login form with demo": """<!DOCTYPE html><html><head><title>How to build a login form in plain HTML |
Small Web</title><meta property="og:type" content="article"></head><body><article><h1>How to build a login form
in plain HTML</h1><p>A log-in form needs two fields and a button, and no script at all. Give the fields names
that password managers know.</p><form><input name=u><input type=password><button>Log in</button></form><p>Please
log in to continue is a poor heading: say what waits behind the form.</p></article></body></html>""",
    "news cloudflare": """<!DOCTYPE html><html><head><title>Just a moment: how Cloudflare's checks broke half
the web | The Wire</title></head><body><article><h1>Just a moment: how Cloudflare's checks broke half the
web</h1><p>For forty minutes on Tuesday, visitors of thousands of sites saw nothing but the words "Checking your
browser" and a spinner.</p><p>The company says that a change of its bot management was rolled out to all data
centres at once. It has since been taken back.</p></article></body></html>""",
    "forum access denied": """<!DOCTYPE html><html><head><title>Access denied when opening a network share -
Windows - Help Board</title></head><body><div class=nav><a>Home</a><a>Login</a></div><form><input type=text
name=u><input type=password><button>Login</button></form><h1>Access denied when opening a network share</h1><div
class=post>Since the update my laptop says access denied for \\\\nas\\films. The phone still works. Any
ideas?</div><div class=post>Turn off guest logons, then map it with a name and a password.</div><div>You must be
logged in to reply.</div></body></html>""",
    "book are you a robot": """<!DOCTYPE html><html><head><title>Are You a Robot? | Picture Books | Corner
Bookshop</title></head><body><nav><a>Books</a></nav><main><h1>Are You a Robot?</h1><p>By Ines Amado, with
pictures by Tomas Veld. Hardback, 32 pages, for children from three to six years.</p><p>Milo has a friend who
never sleeps, never eats and always wins at chess. One night Milo asks him the question. A tender story on what
makes us different, printed in five colours on heavy paper, with a poster of all machines in the book. Winner of
the Golden Kite of 2025. In stock, sent within two days. £12.99 with free delivery from
£20.</p></main></body></html>""",
    "song error": """<!DOCTYPE html><html><head><title>Page Not Found (song) - Music
Wiki</title></head><body><h1>Page Not Found (song)</h1><p>"Page Not Found" is the second single of the Danish
band Nordhavn, released in 2019 on the label Kelp.</p></body></html>""",
    "help password": """<!DOCTYPE html><html><head><title>Why can't I log in? - Help
Centre</title></head><body><h1>Why can't I log in?</h1><p>Check that caps lock is off, and that you use the
address you signed up with. If you have forgotten your password, ask for a new one on the log-in
page.</p></body></html>""",
    "forum index": """<!DOCTYPE html><html><head><title>Sailing Boards - Index
page</title></head><body><h1>Sailing Boards</h1><div><h3>Login</h3><form><label>Username</label><input
name=u><label>Password</label><input type=password><label>Remember me</label></form></div><div><a href=/f0>Forum
of class 0</a> 0 topics</div><div><a href=/f1>Forum of class 1</a> 37 topics</div><div><a href=/f2>Forum of
class 2</a> 74 topics</div><div><a href=/f3>Forum of class 3</a> 111 topics</div><div><a href=/f4>Forum of class
4</a> 148 topics</div><div><a href=/f5>Forum of class 5</a> 185 topics</div><div><a href=/f6>Forum of class
6</a> 222 topics</div><div><a href=/f7>Forum of class 7</a> 259 topics</div><div><a href=/f8>Forum of class
8</a> 296 topics</div><div><a href=/f9>Forum of class 9</a> 333 topics</div><div><a href=/f10>Forum of class
10</a> 370 topics</div><div><a href=/f11>Forum of class 11</a> 407 topics</div><div><a href=/f12>Forum of class
12</a> 444 topics</div><div><a href=/f13>Forum of class 13</a> 481 topics</div><div><a href=/f14>Forum of class
14</a> 518 topics</div><div><a href=/f15>Forum of class 15</a> 555 topics</div><div><a href=/f16>Forum of class
16</a> 592 topics</div><div><a href=/f17>Forum of class 17</a> 629 topics</div><div><a href=/f18>Forum of class
18</a> 666 topics</div><div><a href=/f19>Forum of class 19</a> 703 topics</div></body></html>""",
    "short article with comment line": """<!DOCTYPE html><html><head><title>Rye with caraway - The Bread
Diaries</title></head><body><article><h1>Rye with caraway</h1><p>Mix 400 g of rye flour with 300 g of water and
leave it for a night.</p></article><div id=respond><h3>Leave a reply</h3><p>You must be <a>logged in</a> to post
a comment.</p></div></body></html>""",
    "product unavailable": """<!DOCTYPE html><html><head><title>Brass lamp -
Northwind</title></head><body><h1>Brass lamp</h1><p>This product is currently unavailable.</p><p>Height 40 cm,
shade of green glass.</p></body></html>""",
    "error fare": """<!DOCTYPE html><html><head><title>Error | A short story by L.
Brandt</title></head><body><article><h1>Error</h1><p>The lift had stopped between two floors, and the voice in
the wall said the word again, kindly, as one says it to a child who has added up wrong.</p><p>The lift had
stopped between two floors, and the voice in the wall said the word again, kindly, as one says it to a child who
has added up wrong.</p><p>The lift had stopped between two floors, and the voice in the wall said the word
again, kindly, as one says it to a child who has added up wrong.</p><p>The lift had stopped between two floors,
and the voice in the wall said the word again, kindly, as one says it to a child who has added up
wrong.</p><p>The lift had stopped between two floors, and the voice in the wall said the word again, kindly, as
one says it to a child who has added up wrong.</p></article></body></html>""",
    "film": """<!doctype html><html><head><title>Forbidden - Film
Archive</title></head><body><nav><a>Films</a></nav><h1>Forbidden</h1><p>1932, 85 min. Directed by Frank Capra.
With Barbara Stanwyck and Adolphe Menjou.</p><p>A librarian falls for a married politician, and keeps his secret
for eighteen years.</p></body></html>""",
    "dictionary": """<!doctype html><html><head><title>error -
Wordbook</title></head><body><h1>error</h1><p>noun. A mistake. From Latin error, a wandering about.</p><p>The
report had an error on its first page.</p></body></html>""",
    "candle": """<!doctype html><html><head><title>Just a Moment | Candles | Wick &
Co</title></head><body><h1>Just a Moment</h1><p>A candle of soy wax that smells of bergamot and fig. Burns for
40 hours.</p><p>18.00 EUR</p><button>Add to basket</button></body></html>""",
    "job": """<!doctype html><html><head><title>Site maintenance technician - Harbour
Jobs</title></head><body><h1>Site maintenance technician</h1><p>Full time, Rotterdam. You keep cranes
running.</p></body></html>""",
    "api reference": """<!doctype html><html><head><title>Access denied | Errors | API
reference</title></head><body><h1>Access denied</h1><p>Code 1042. Returned by <code>GET /files</code> where the
token lacks the scope <code>files.read</code>.</p><p>Ask for the scope when you make the
token.</p></body></html>""",
    "issue": """<!doctype html><html><head><title>Page not found after deploy · Issue #42 ·
lamp/site</title></head><body><h1>Page not found after deploy #42</h1><p>After deploying to a subfolder each
link gives 404. Works on localhost.</p><p>Set the base path.</p></body></html>""",
    "support": """<!doctype html><html><head><title>Sign in with a passkey - Lantern
Help</title></head><body><h1>Sign in with a passkey</h1><p>On the log-in page choose Passkey, and touch the
reader. No password is needed.</p></body></html>""",
    "poem": """<!doctype html><html><head><title>Not found</title></head><body><h1>Not found</h1><p>I looked
for you in every drawer,<br>the keys were there, the gloves, the score,<br>the letter I had folded small;<br>the
one who wrote it, not at all.</p></body></html>""",
    "event": """<!doctype html><html><head><title>Anmeldung zum Workshop Brotbacken -
Volkshochschule</title></head><body><h1>Anmeldung zum Workshop Brotbacken</h1><p>Samstag, 14. März, 10 bis 16
Uhr. Kursgebühr 40 Euro. Bitte melden Sie sich bis zum 1. März an.</p></body></html>""",
    "status page": """<!doctype html><html><head><title>Scheduled maintenance - Status of
Lantern</title></head><body><h1>Scheduled maintenance</h1><p>On 3 May from 02:00 to 04:00 UTC searches may be
slow.</p></body></html>""",
    "band": """<!doctype html><html><head><title>Access Denied | Bands | Metal
Index</title></head><body><h1>Access Denied</h1><p>Thrash metal from Gdańsk, since 1999. Albums: Gates (2002),
Keyhole (2006), Warden (2014).</p></body></html>""",
    "product with price wall": """<!doctype html><html><head><title>Brass fittings 1/2 inch | Trade
Depot</title></head><body><h1>Brass fittings 1/2 inch</h1><p>Pack of 50. Please log in to see prices.</p><p>In
stock.</p></body></html>""",
    "video page": """<!doctype html><html><head><title>Harbour at night | Clips</title></head><body><h1>Harbour
at night</h1><p>This video is no longer available.</p><p>Filmed in June from the north pier.</p></body></html>""",
    "cookies recipe": """<!doctype html><html><head><title>Cookies required: a list of Christmas
baking</title></head><body><h1>Cookies required: a list of Christmas baking</h1><p>Vanilla crescents, pepper
nuts, almond moons.</p></body></html>""",
    "captcha museum": """<!doctype html><html><head><title>CAPTCHA | Museum of the
Web</title></head><body><h1>CAPTCHA</h1><p>A test that tells people from programs. The word was coined in 2003
at Carnegie Mellon University.</p></body></html>""",
    "login docs tiny": """<!doctype html><html><head><title>login(1) -
Manual</title></head><body><h1>login(1)</h1><p>login - begin a session on the system</p><pre>login [-p] [-h
host] [username]</pre></body></html>""",
    "wiki stub": """<!doctype html><html><head><title>410 Gone - Glossary</title></head><body><h1>410
Gone</h1><p>A status that says that a resource is away for good.</p></body></html>""",
    "forum german": """<!doctype html><html><head><title>Seite nicht gefunden nach Update -
Forum</title></head><body><h1>Seite nicht gefunden nach Update</h1><p>Seit heute zeigt mein Blog nur noch 404.
Was tun?</p><p>Permalinks neu speichern.</p></body></html>""",
    "thesaurus": """<!doctype html><html><head><title>Unauthorized |
Synonyms</title></head><body><h1>Unauthorized</h1><p>illicit, unsanctioned, unlicensed,
wildcat</p></body></html>""",
    "news short": """<!doctype html><html><head><title>Site has been moved to the harbour, says mayor | Coast
News</title><meta property='og:type' content='article'></head><body><h1>Site has been moved to the harbour, says
mayor</h1><p>The market moves in May.</p></body></html>""",
    "small book": """<!doctype html><html><head><title>Are You a Robot? | Corner
Bookshop</title></head><body><h1>Are You a Robot?</h1><p>For children from three. Hardback, 32
pages.</p></body></html>""",
}
