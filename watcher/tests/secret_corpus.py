"""Files that hold a secret, and files that only look like it: forms, filled in at run time.

Nothing here is a secret, and no line of this file has the form of one: whatever would be is put
together from random characters, the same in each run. Forms are in two halves each. ``TUNED`` are
those that the rules were made with; ``HELD_BACK`` were written beforehand, and the rules were never
changed for one of them: what is measured on these is what may be claimed.
"""

# ruff: noqa: ARG005, E501, S608  # a form is a function of what it is filled with
from __future__ import annotations

import json
import random
import string
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import NamedTuple

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
LOWER = string.ascii_lowercase + string.digits
HEX = "0123456789abcdef"
KEY = "KEY-----"  # so that no line here begins a key


class Maker:
    """Makes characters that look random, the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311

    def of(self, alphabet: str, length: int) -> str:
        return "".join(self._random.choices(alphabet, k=length))

    def alnum(self, length: int) -> str:
        return self.of(ALNUM, length)

    def hex(self, length: int) -> str:
        return self.of(HEX, length)

    def upper(self, length: int) -> str:
        return self.of(UPPER, length)

    def lower(self, length: int) -> str:
        return self.of(LOWER, length)

    def digits(self, length: int) -> str:
        return self.of(string.digits, length)

    def b64(self, length: int) -> str:
        return b64encode(self._random.randbytes(length)).decode()

    def url64(self, length: int) -> str:
        return urlsafe_b64encode(self._random.randbytes(length)).decode().rstrip("=")

    def uuid(self) -> str:
        return "-".join(self.hex(n) for n in (8, 4, 4, 4, 12))

    def pick(self, *choices: str) -> str:
        return self._random.choice(choices)

    def word(self) -> str:
        """A password as a generator or a careful person makes it, without quotes and spaces."""
        kind = self._random.randrange(5)
        if kind == 0:
            return self.alnum(1) + self.of(ALNUM, 19)
        if kind == 1:
            return self.hex(32)
        if kind == 2:
            return self.of(ALNUM, 7) + self.of("!#%*+-_.~", 1) + self.of(ALNUM, 7)
        if kind == 3:
            return self.pick("Tr0ub4dor", "Gr4nit3", "Pl4net", "M0untain", "St4rl1ght") + (
                self.pick("!", "-", "#", "_") + self.of(ALNUM, 5)
            )
        return self.lower(4) + "-" + self.lower(4) + "-" + self.upper(6)

    def plain(self) -> str:
        """A password of letters and digits."""
        return self.of(ALNUM, 9) + self.digits(2) + self.of(ALNUM, 9)

    def lines(self, count: int, width: int = 64) -> str:
        return "\n".join(self.of(ALNUM + "+/", width) for _ in range(count))

    def jwt(self) -> str:
        head = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
        body = json.dumps({"sub": self.digits(8), "role": "admin", "iat": 1700000000})
        return f"{head}.{urlsafe_b64encode(body.encode()).decode().rstrip('=')}.{self.url64(32)}"


class Form(NamedTuple):
    """A kind of file.

    Attributes:
        name: of the kind.
        path: of a file.
        fill: makes its text.
    """

    name: str
    path: str
    fill: Callable[[Maker], str]

    def text(self, number: int) -> str:
        """Return the text of one such file."""
        return self.fill(Maker(f"{self.name} {number}"))


def _notebook(*source: str) -> str:
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": list(source)}]
    return json.dumps(
        {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )


def _forms(table: dict[str, tuple[str, Callable[[Maker], str]]]) -> list[Form]:
    return [Form(name, path, fill) for name, (path, fill) in table.items()]


def _begin(kind: str) -> str:
    return f"-----BEGIN {kind}{KEY}"


def _end(kind: str) -> str:
    return f"-----END {kind}{KEY}"


SECRETS_TUNED = _forms(
    {
        # Tokens of a known shape
        "aws key pair": (
            "deploy.py",
            lambda m: (
                f'key_id = "AK{"IA"}{m.of(string.ascii_uppercase + "234567", 16)}"\nsecret_access_key = "{m.of(ALNUM + "+/", 40)}"\n'
            ),
        ),
        "aws secret alone": (
            "a.sh",
            lambda m: f"export AWS_SECRET_ACCESS_KEY={m.of(ALNUM + '+/', 40)}\n",
        ),
        "github token": ("a.py", lambda m: f'TOKEN = "ghp_{m.alnum(36)}"\n'),
        "github fine-grained": (
            "a.md",
            lambda m: f"Use github_pat_{m.alnum(22)}_{m.alnum(59)} here.\n",
        ),
        "gitlab token": ("a.yml", lambda m: f"token: glpat-{m.alnum(20)}\n"),
        "slack bot": (
            "a.js",
            lambda m: f'const s = "xoxb-{m.digits(12)}-{m.digits(12)}-{m.alnum(24)}";\n',
        ),
        "slack webhook": (
            "a.py",
            lambda m: (
                f'URL = "https://hooks.slack.com/services/T{m.upper(8)}/B{m.upper(8)}/{m.alnum(24)}"\n'
            ),
        ),
        "stripe live": ("a.rb", lambda m: f'Stripe.api_key = "sk_live_{m.alnum(24)}"\n'),
        "twilio": (
            "a.py",
            lambda m: (
                f'client = Client("AC{m.hex(32)}", "{m.hex(32)}")\ntwilio_auth_token = "{m.hex(32)}"\n'
            ),
        ),
        "sendgrid": ("a.go", lambda m: f'key := "SG.{m.alnum(22)}.{m.alnum(43)}"\n'),
        "openai project": (
            "a.py",
            lambda m: f'openai.api_key = "sk-proj-{m.alnum(74)}T3Blbk{"FJ"}{m.alnum(74)}"\n',
        ),
        "openai old": ("a.py", lambda m: f'x = "sk-{m.alnum(20)}T3Blbk{"FJ"}{m.alnum(20)}"\n'),
        "anthropic": ("a.ts", lambda m: f'const k = "sk-ant-api03-{m.of(ALNUM + "-_", 93)}AA";\n'),
        "hugging face": ("a.py", lambda m: f'login("hf_{m.of(string.ascii_letters, 34)}")\n'),
        "npm": ("a.md", lambda m: f"//registry.example.org/:_authToken=npm_{m.alnum(36)}\n"),
        "pypi": ("a.yml", lambda m: f"      password: pypi-AgE{'IcHlwaS5vcmc'}{m.alnum(150)}\n"),
        "docker hub": (
            "a.sh",
            lambda m: f'echo "dckr_pat_{m.of(ALNUM + "-_", 27)}" | docker login --password-stdin\n',
        ),
        "google api": ("a.js", lambda m: f'key: "AI{"za"}{m.of(ALNUM + "-_", 35)}",\n'),
        "google oauth secret": (
            "a.py",
            lambda m: f'CLIENT_SECRET = "GOC{"SPX"}-{m.of(ALNUM + "-_", 28)}"\n',
        ),
        "gcp service account": (
            "gcp.json",
            lambda m: json.dumps(
                {
                    "type": "service_account",
                    "project_id": "shop",
                    "private_key_id": m.hex(40),
                    "private_key": f"{_begin('PRIVATE ')}\n{m.lines(26)}\n{_end('PRIVATE ')}\n",
                    "client_email": "x@shop.iam.gserviceaccount.com",
                },
                indent=2,
            ),
        ),
        "azure storage": (
            "a.cs",
            lambda m: (
                f'var c = "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={m.b64(64)};EndpointSuffix=core.windows.net";\n'
            ),
        ),
        "jwt": (
            "a.http",
            lambda m: f"GET https://api.example.org/me\nAuthorization: Bearer {m.jwt()}\n",
        ),
        "pem rsa": (
            "notes.txt",
            lambda m: f"{_begin('RSA PRIVATE ')}\n{m.lines(24)}\n{_end('RSA PRIVATE ')}\n",
        ),
        "openssh in python": (
            "a.py",
            lambda m: (
                f'KEY = """{_begin("OPENSSH PRIVATE ")}\n{m.lines(6, 70)}\n{_end("OPENSSH PRIVATE ")}\n"""\n'
            ),
        ),
        "vault": ("a.sh", lambda m: f"export VAULT_TOKEN=hvs.{m.of(ALNUM + '-_', 95)}\n"),
        "grafana": ("a.yml", lambda m: f"apiKey: glsa_{m.alnum(32)}_{m.hex(8)}\n"),
        "digitalocean": (
            "a.tf",
            lambda m: f'provider "digitalocean" {{\n  token = "dop_v1_{m.hex(64)}"\n}}\n',
        ),
        "telegram": (
            "a.py",
            lambda m: f'bot = Bot("{m.digits(10)}:AA{m.of(ALNUM + "-_", 33)}")\ntelegram = 1\n',
        ),
        "datadog": ("a.yml", lambda m: f"DD_API_KEY: {m.hex(32)}\n"),
        "age": (
            "a.txt",
            lambda m: f"AGE-SECRET-KEY-1{m.of('QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L', 58)}\n",
        ),
        "infbox key": (
            "a.sh",
            lambda m: f"export OPENAI_API_KEY=sk-infbox-{m.of(ALNUM + '-_', 43)}\n",
        ),
        "infbox key in a call": (
            "a.py",
            lambda m: f'client = OpenAI(base_url=url, x="sk-infbox-{m.of(ALNUM + "-_", 43)}")\n',
        ),
        # Assignments
        "python": ("settings.py", lambda m: f'DB_PASSWORD = "{m.word()}"\n'),
        "python keyword": (
            "a.py",
            lambda m: f"conn = connect(host='db', user='app', password='{m.word()}')\n",
        ),
        "javascript": (
            "a.js",
            lambda m: f"module.exports = {{ user: 'app', password: '{m.word()}' }};\n",
        ),
        "json": (
            "conf.json",
            lambda m: json.dumps({"db": {"user": "app", "password": m.word()}}, indent=2),
        ),
        "json api key": (
            "conf.json",
            lambda m: json.dumps({"apiKey": m.plain(), "url": "https://x.example.org"}),
        ),
        "yaml": ("conf.yml", lambda m: f"database:\n  user: app\n  password: {m.word()}\n"),
        "yaml quoted": ("conf.yaml", lambda m: f"smtp:\n  smtp_auth_password: '{m.word()}'\n"),
        "toml": ("conf.toml", lambda m: f'[db]\nuser = "app"\npassword = "{m.word()}"\n'),
        "properties": (
            "application.properties",
            lambda m: f"spring.datasource.username=app\nspring.datasource.password={m.word()}\n",
        ),
        "shell": ("run.sh", lambda m: f"export DB_PASSWORD={m.plain()}\n./run\n"),
        "shell quoted": ("run.sh", lambda m: f"DB_PASS='{m.word()}'\n"),
        "dockerfile": ("Dockerfile", lambda m: f"FROM debian\nENV ADMIN_PASSWORD={m.plain()}\n"),
        "compose list": (
            "docker-compose.yml",
            lambda m: (
                f"services:\n  db:\n    environment:\n      - POSTGRES_PASSWORD={m.plain()}\n"
            ),
        ),
        "compose map": (
            "docker-compose.yml",
            lambda m: (
                f"services:\n  db:\n    environment:\n      MYSQL_ROOT_PASSWORD: {m.plain()}\n"
            ),
        ),
        "go": ("a.go", lambda m: f'var clientSecret = "{m.word()}"\n'),
        "java": ("A.java", lambda m: f'private static final String PASSWORD = "{m.word()}";\n'),
        "php define": ("config.php", lambda m: f"<?php\ndefine('DB_PASSWORD', '{m.word()}');\n"),
        "ruby hash": ("a.rb", lambda m: f'{{ :user => "app", :password => "{m.word()}" }}\n'),
        "csharp": ("A.cs", lambda m: f'var apiSecret = "{m.word()}";\n'),
        # Connection strings and addresses
        "postgres url": (
            "a.py",
            lambda m: (
                f'engine = create_engine("postgresql+psycopg://app:{m.plain()}@db.internal:5432/shop")\n'
            ),
        ),
        "mysql url": (
            "a.js",
            lambda m: f'const pool = open("mysql://root:{m.plain()}@10.0.0.4/shop");\n',
        ),
        "mongodb": (
            "a.ts",
            lambda m: f'connect("mongodb+srv://app:{m.plain()}@cluster0.mongodb.net/shop")\n',
        ),
        "redis without user": (
            "a.py",
            lambda m: f'r = from_url("redis://:{m.plain()}@cache:6379/0")\n',
        ),
        "https with token": (
            "a.md",
            lambda m: f"git clone https://deploy:{m.plain()}@git.example.org/shop.git\n",
        ),
        "ado.net": (
            "appsettings.Production.json",
            lambda m: json.dumps(
                {
                    "ConnectionStrings": {
                        "Main": f"Server=db1;Database=shop;User Id=app;Password={m.word()};Encrypt=true"
                    }
                }
            ),
        ),
        "odbc": (
            "a.py",
            lambda m: f'pyodbc.connect("DRIVER={{SQL Server}};SERVER=db1;UID=sa;PWD={m.word()}")\n',
        ),
        "jdbc": (
            "a.xml",
            lambda m: f"<url>jdbc:mysql://db1/shop?user=app&amp;password={m.plain()}</url>\n",
        ),
        "libpq": (
            "a.go",
            lambda m: (
                f'db, err := sql.Open("postgres", "host=db1 user=app password={m.plain()} dbname=shop")\n'
            ),
        ),
        # XML
        "xml element": (
            "conf.xml",
            lambda m: f"<db><user>app</user><password>{m.word()}</password></db>\n",
        ),
        "xml attribute": (
            "conf.xml",
            lambda m: f'<connection host="db1" user="app" password="{m.word()}"/>\n',
        ),
        "spring xml": ("beans.xml", lambda m: f'<property name="password" value="{m.word()}"/>\n'),
        "web.config": ("web.config", lambda m: f'<add key="ApiSecret" value="{m.word()}" />\n'),
        # Headers
        "bearer": (
            "a.http",
            lambda m: f"GET / HTTP/1.1\nAuthorization: Bearer {m.plain()}{m.plain()}\n",
        ),
        "basic": (
            "a.py",
            lambda m: (
                f'headers = {{"Authorization": "Basic {b64encode(("app:" + m.word()).encode()).decode()}"}}\n'
            ),
        ),
        "curl bearer": (
            "README.md",
            lambda m: (
                f'```\ncurl -H "Authorization: Bearer {m.alnum(40)}" https://api.example.org\n```\n'
            ),
        ),
        "x-api-key": ("a.http", lambda m: f"POST /v1/things\nX-Api-Key: {m.plain()}\n"),
        # Kubernetes
        "k8s data": (
            "secret.yml",
            lambda m: (
                f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\ntype: Opaque\ndata:\n  username: {b64encode(b'app').decode()}\n  password: {b64encode(m.word().encode()).decode()}\n"
            ),
        ),
        "k8s data with other names": (
            "db.yaml",
            lambda m: (
                f"kind: Secret\napiVersion: v1\ndata:\n  config.ini: {m.b64(120)}\nmetadata:\n  name: db\n"
            ),
        ),
        "k8s stringData": (
            "secret.yaml",
            lambda m: (
                f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\nstringData:\n  value: {m.word()}\n"
            ),
        ),
        # Terraform
        "tf default": (
            "variables.tf",
            lambda m: (
                f'variable "db_password" {{\n  type    = string\n  default = "{m.word()}"\n}}\n'
            ),
        ),
        "tf resource": (
            "main.tf",
            lambda m: (
                f'resource "aws_db_instance" "db" {{\n  username = "app"\n  password = "{m.word()}"\n}}\n'
            ),
        ),
        # Commands
        "mysql -p": ("a.sh", lambda m: f"mysql -u root -p{m.plain()} shop < dump.sql\n"),
        "mysqldump": ("a.sh", lambda m: f"mysqldump --user=root --password={m.word()} shop\n"),
        "curl -u": ("a.sh", lambda m: f"curl -u admin:{m.word()} https://x.example.org/api\n"),
        "sshpass": ("a.sh", lambda m: f"sshpass -p '{m.word()}' ssh root@10.0.0.7\n"),
        "docker login": (
            "a.sh",
            lambda m: f"docker login -u app -p {m.word()} registry.example.org\n",
        ),
        "PGPASSWORD": ("a.sh", lambda m: f"PGPASSWORD={m.plain()} psql -h db1 -U app\n"),
        # Ansible
        "ansible host line": (
            "inventory",
            lambda m: (
                f"[web]\nweb1 ansible_host=10.0.0.4 ansible_user=root ansible_password={m.word()}\n"
            ),
        ),
        "ansible group vars": (
            "hosts.ini",
            lambda m: f"[all:vars]\nansible_become_pass={m.word()}\nansible_port=22\n",
        ),
        # Notebooks
        "notebook": ("a.ipynb", lambda m: _notebook("import os\n", f'api_key = "{m.word()}"\n')),
        "notebook single": (
            "a.ipynb",
            lambda m: _notebook(f"client = Client(token='{m.plain()}')\n"),
        ),
        "notebook environ": (
            "a.ipynb",
            lambda m: _notebook(f'os.environ["DB_PASSWORD"] = "{m.word()}"\n'),
        ),
        # Found wanting later, and added
        "apple's password": (
            "a.py",
            lambda m: (
                f'password = "{m.of(string.ascii_lowercase, 5)}{m.digits(1)}-{m.of(string.ascii_uppercase, 1)}{m.of(string.ascii_lowercase, 5)}-{m.of(string.ascii_lowercase, 6)}"\n'
            ),
        ),
        "yaml block": ("a.yml", lambda m: f"db_password: |\n  {m.word()}\n"),
        "yaml list": ("a.yml", lambda m: f"api_tokens:\n  - {m.plain()}\n"),
        "yaml anchor": ("a.yml", lambda m: f"password: &pw {m.word()}\n"),
        "json list": (
            "a.json",
            lambda m: json.dumps({"tokens": [m.plain()]}) + json.dumps({"apiKeys": [m.plain()]}),
        ),
        "argparse default": (
            "a.py",
            lambda m: f'parser.add_argument("--password", type=str, default="{m.word()}")\n',
        ),
        "annotated": ("a.py", lambda m: f'    password: str = "{m.word()}"\n'),
        "default argument": ("a.py", lambda m: f'def connect(host, password="{m.word()}"):\n'),
        "triple quotes": ("a.py", lambda m: f'SECRET = """{m.word()}"""\n'),
        "or": ("a.py", lambda m: f'x = os.environ.get("API_SECRET") or "{m.word()}"\n'),
        "setdefault": ("a.py", lambda m: f'os.environ.setdefault("API_TOKEN", "{m.word()}")\n'),
        "wrapped": ("a.py", lambda m: f'api_key=SecretStr("{m.word()}")\n'),
        "setProperty": ("A.java", lambda m: f'props.setProperty("db.password", "{m.word()}");\n'),
        "builder": ("A.java", lambda m: f'.username("app").password("{m.word()}").build()\n'),
        "go bytes": ("a.go", lambda m: f'var jwtKey = []byte("{m.word()}")\n'),
        "go struct": ("a.go", lambda m: f'Config{{User: "app", Password: "{m.word()}"}}\n'),
        "jwt.sign": (
            "a.js",
            lambda m: f"const t = jwt.sign(payload, '{m.word()}', {{ expiresIn: '1h' }});\n",
        ),
        "createHmac": ("a.js", lambda m: f"crypto.createHmac('sha256', '{m.word()}').update(x)\n"),
        "hmac.new": ("a.py", lambda m: f'sig = hmac.new(b"{m.word()}", body, sha256)\n'),
        "requests auth": ("a.py", lambda m: f'requests.get(url, auth=("app", "{m.word()}"))\n'),
        "network credential": (
            "A.cs",
            lambda m: f'var c = new NetworkCredential("app", "{m.word()}");\n',
        ),
        "curlopt": ("a.php", lambda m: f'curl_setopt($c, CURLOPT_USERPWD, "app:{m.word()}");\n'),
        "xml entry": ("a.xml", lambda m: f'<entry key="db.password">{m.word()}</entry>\n'),
        "xml setting": (
            "a.config",
            lambda m: (
                f'<setting name="ApiKey" serializeAs="String"><value>{m.word()}</value></setting>\n'
            ),
        ),
        "cdata": ("a.xml", lambda m: f"<password><![CDATA[{m.word()}]]></password>\n"),
        "hibernate": (
            "a.xml",
            lambda m: f'<property name="hibernate.connection.password">{m.word()}</property>\n',
        ),
        "mssql login": ("a.sql", lambda m: f"CREATE LOGIN app WITH PASSWORD = N'{m.word()}';\n"),
        "wordpress": (
            "wp.php",
            lambda m: (
                f"define( 'AUTH_KEY', '{m.of(ALNUM + '!@#$%^&*()-_ []{}<>~+=,.;:/?|', 64)}' );\n"
            ),
        ),
        "keepalived": ("k.conf", lambda m: f"    auth_type PASS\n    auth_pass {m.plain()}\n"),
        "rndc": (
            "r.conf",
            lambda m: f'key "k" {{\n  algorithm hmac-sha256;\n  secret "{m.b64(32)}";\n}};\n',
        ),
        "consul": ("c.hcl", lambda m: f'encrypt = "{m.b64(32)}"\n'),
        "rootpw": ("slapd.conf", lambda m: f"rootdn cn=admin\nrootpw {m.plain()}\n"),
        "unseal key": ("a.txt", lambda m: f"Unseal Key 1: {m.b64(33)}\n"),
        "jaas": (
            "a.properties",
            lambda m: (
                f'sasl.jaas.config=x.ScramLoginModule required username="app" password="{m.word()}";\n'
            ),
        ),
        "signed address": (
            "a.md",
            lambda m: (
                f"https://b.s3.amazonaws.com/k?X-Amz-Expires=900&X-Amz-Signature={m.hex(64)}\n"
            ),
        ),
        "discord webhook": (
            "a.py",
            lambda m: (
                f'H = "https://discord.com/api/webhooks/{m.digits(18)}/{m.of(ALNUM + "-_", 68)}"\n'
            ),
        ),
        "pgpass line": ("a.sh", lambda m: f"echo 'db1:5432:shop:app:{m.plain()}' > ~/.x\n"),
        "cmdkey": ("a.bat", lambda m: f"cmdkey /add:srv /user:app /pass:{m.plain()}\n"),
        "plink": ("a.bat", lambda m: f"plink -ssh root@10.0.0.1 -pw {m.plain()} ls\n"),
        "build argument": ("a.sh", lambda m: f"docker build --build-arg NPM_TOKEN={m.plain()} .\n"),
        "helm set": ("a.sh", lambda m: f"helm install x --set auth.password={m.plain()}\n"),
        "kustomize": (
            "kustomization.yaml",
            lambda m: f"secretGenerator:\n- name: db\n  literals:\n  - password={m.word()}\n",
        ),
        "kubeconfig key": (
            "a.yaml",
            lambda m: (
                f"    client-key-data: {b64encode((_begin('RSA PRIVATE ') + m.lines(6)).encode()).decode()}\n"
            ),
        ),
        "arguments": ("pod.yaml", lambda m: f'args: ["--user=app", "--password={m.plain()}"]\n'),
        "tf nested": (
            "v.tf",
            lambda m: (
                f'variable "db_password" {{\n  validation {{\n    condition = length(var.x) > 8\n  }}\n  default = "{m.word()}"\n}}\n'
            ),
        ),
        "tf set": (
            "h.tf",
            lambda m: f'set_sensitive {{\n  name  = "auth.password"\n  value = "{m.word()}"\n}}\n',
        ),
        "password_hash": (
            "a.yml",
            lambda m: f"    password: \"{{{{ '{m.word()}' | password_hash('sha512') }}}}\"\n",
        ),
        "android": (
            "build.gradle",
            lambda m: f'buildConfigField "String", "API_KEY", "\\"{m.plain()}\\""\n',
        ),
        "setenv apache": ("a.conf", lambda m: f"SetEnv DB_PASSWORD {m.plain()}\n"),
        "nginx comparison": (
            "a.conf",
            lambda m: f'if ($http_x_api_key != "{m.plain()}") {{ return 403; }}\n',
        ),
        "ethereum": ("a.js", lambda m: f'const PRIVATE_KEY = "0x{m.hex(64)}";\n'),
        "mnemonic": (
            "a.js",
            lambda m: (
                "const mnemonic = '"
                + " ".join(m.of(string.ascii_lowercase, 5) for _ in range(12))
                + "';\n"
            ),
        ),
        "openvpn": (
            "ta.txt",
            lambda m: (
                f"-----BEGIN OpenVPN Static key V1-----\n{m.hex(32)}\n{m.hex(32)}\n{m.hex(64)}\n-----END OpenVPN Static key V1-----\n"
            ),
        ),
    }
)

SECRETS_HELD_BACK = _forms(
    {
        # Tokens of a known shape
        "aws session": (
            "creds.sh",
            lambda m: (
                f"export AWS_ACCESS_KEY_ID=AS{'IA'}{m.of(string.ascii_uppercase + '234567', 16)}\nexport AWS_SESSION_TOKEN={m.b64(200)}\n"
            ),
        ),
        "aws secret in yaml": (
            "a.yml",
            lambda m: (
                f"s3:\n  access_key: AK{'IA'}{m.of(string.ascii_uppercase + '234567', 16)}\n  secret_key: {m.of(ALNUM + '+/', 40)}\n"
            ),
        ),
        "github app": ("a.yml", lambda m: f"GH_TOKEN: ghs_{m.alnum(36)}\n"),
        "github in a remote": (
            "a.sh",
            lambda m: (
                f"git remote set-url origin https://x-access-token:ghp_{m.alnum(36)}@github.com/a/b.git\n"
            ),
        ),
        "gitlab runner": ("a.toml", lambda m: f'token = "glrt-{m.alnum(20)}"\n'),
        "slack app": (
            "a.env.txt",
            lambda m: f"SLACK=xapp-1-A{m.upper(10)}-{m.digits(13)}-{m.hex(64)}\n",
        ),
        "discord bot": (
            "a.js",
            lambda m: f'client.login("M{m.alnum(23)}.{m.alnum(6)}.{m.alnum(38)}"); // discord\n',
        ),
        "stripe restricted": (
            "a.ts",
            lambda m: f'const stripe = new Stripe("rk_live_{m.alnum(40)}");\n',
        ),
        "stripe webhook": ("a.py", lambda m: f'endpoint_secret = "whsec_{m.alnum(32)}"\n'),
        "mailgun": ("a.py", lambda m: f'MAILGUN = "key-{m.hex(32)}"\n'),
        "mailchimp": ("a.py", lambda m: f'mailchimp_api_key = "{m.hex(32)}-us12"\n'),
        "shopify": ("a.rb", lambda m: f'ACCESS = "shpat_{m.hex(32)}"\n'),
        "square": ("a.py", lambda m: f'square = "sq0csp-{m.of(ALNUM + "-_", 43)}"\n'),
        "rubygems": ("a.yml", lambda m: f":rubygems_api_key: rubygems_{m.hex(48)}\n"),
        "groq": ("a.py", lambda m: f'client = Groq(api_key="gsk_{m.alnum(52)}")\n'),
        "replicate": (
            "a.py",
            lambda m: f'os.environ["REPLICATE_API_TOKEN"] = "r8_{m.alnum(37)}"\n',
        ),
        "openrouter": ("a.ts", lambda m: f'apiKey: "sk-or-v1-{m.hex(64)}",\n'),
        "perplexity": ("a.py", lambda m: f'PPLX = "pplx-{m.alnum(48)}"\n'),
        "databricks": ("a.py", lambda m: f'token = "dapi{m.hex(32)}"\n'),
        "new relic": (
            "a.yml",
            lambda m: f"api_key: NRAK-{m.of(string.ascii_uppercase + string.digits, 27)}\n",
        ),
        "sentry": ("a.ini", lambda m: f"token=sntryu_{m.hex(64)}\n"),
        "linear": ("a.ts", lambda m: f'const linear = "lin_api_{m.alnum(40)}";\n'),
        "notion": ("a.ts", lambda m: f'auth: "ntn_{m.digits(11)}{m.alnum(35)}"\n'),
        "airtable": ("a.py", lambda m: f'AIRTABLE = "pat{m.alnum(14)}.{m.hex(64)}"\n'),
        "figma": ("a.py", lambda m: f'h = {{"X-Figma-Token": "figd_{m.of(ALNUM + "-_", 40)}"}}\n'),
        "cloudflare": ("a.toml", lambda m: f'CLOUDFLARE_API_TOKEN = "{m.of(ALNUM + "-_", 40)}"\n'),
        "fly": ("a.sh", lambda m: f"FLY_API_TOKEN=fo1_{m.alnum(43)}\n"),
        "doppler": ("a.sh", lambda m: f"DOPPLER_TOKEN=dp.pt.{m.alnum(43)}\n"),
        "terraform cloud": (
            "a.hcl",
            lambda m: f'token = "{m.alnum(14)}.atlasv1.{m.of(ALNUM, 67)}"\n',
        ),
        "pulumi": ("a.sh", lambda m: f"export PULUMI_ACCESS_TOKEN=pul-{m.hex(40)}\n"),
        "postman": ("a.json", lambda m: json.dumps({"x": f"PMAK-{m.hex(24)}-{m.hex(34)}"})),
        "tailscale": (
            "a.sh",
            lambda m: f"tailscale up --authkey=tskey-auth-{m.alnum(12)}CNTRL-{m.alnum(32)}\n",
        ),
        "artifactory": ("a.yml", lambda m: f"artifactory_api_key: AKCp{m.alnum(69)}\n"),
        "sonarqube": ("a.yml", lambda m: f"sonar.login: squ_{m.hex(40)}\n"),
        "buildkite": ("a.sh", lambda m: f"buildkite=bkua_{m.hex(40)}\n"),
        "google refresh": (
            "a.json",
            lambda m: json.dumps({"refresh_token": f"1//0{m.of(ALNUM + '-_', 90)}"}),
        ),
        "azure client secret": (
            "a.cs",
            lambda m: f'var s = "{m.alnum(3)}8Q~{m.of(ALNUM + "_~.-", 34)}";\n',
        ),
        "azure sas": (
            "a.py",
            lambda m: (
                f'url = "https://shop.blob.core.windows.net/c?sv=2022-11-02&se=2027-01-01&sp=r&sig={m.alnum(43)}%3D"\n'
            ),
        ),
        "facebook": ("a.php", lambda m: f"$facebook_token = 'EAAC{m.alnum(150)}';\n"),
        "pem ec in yaml": (
            "a.yml",
            lambda m: (
                "tls:\n  key: |\n    "
                + "\n    ".join(
                    [_begin("EC PRIVATE "), *m.lines(3).split("\n"), _end("EC PRIVATE ")]
                )
                + "\n"
            ),
        ),
        "pem escaped in json": (
            "a.json",
            lambda m: json.dumps(
                {"k": "\n".join([_begin("RSA PRIVATE "), m.lines(20), _end("RSA PRIVATE ")])}
            ),
        ),
        "pgp": (
            "a.asc",
            lambda m: (
                f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{m.lines(20)}\n-----END PGP PRIVATE KEY BLOCK-----\n"
            ),
        ),
        "putty": (
            "a.txt",
            lambda m: (
                "PuTTY-User-Key-File-3"
                + f": ssh-ed25519\nEncryption: none\nPublic-Lines: 2\n{m.lines(2)}\nPrivate-Lines: 1\n{m.lines(1, 48)}\n"
            ),
        ),
        "jwk": (
            "jwk.json",
            lambda m: json.dumps(
                {"kty": "EC", "crv": "P-256", "x": m.url64(32), "y": m.url64(32), "d": m.url64(32)}
            ),
        ),
        "wireguard": (
            "wg0.conf",
            lambda m: f"[Interface]\nPrivateKey = {m.b64(32)}\nAddress = 10.8.0.1/24\n",
        ),
        "infbox key in yaml": (
            "a.yml",
            lambda m: f"openai:\n  key: sk-infbox-{m.of(ALNUM + '-_', 43)}\n",
        ),
        "infbox key in prose": (
            "a.md",
            lambda m: f"Anna's key is sk-infbox-{m.of(ALNUM + '-_', 43)}, keep it.\n",
        ),
        # Assignments
        "django": (
            "settings.py",
            lambda m: f"SECRET_KEY = 'django-insecure-{m.of(ALNUM + '!@#$%^&*(-_=+)', 50)}'\n",
        ),
        "rails": ("secrets_old.rb", lambda m: f"  secret_key_base: '{m.hex(128)}'\n"),
        "laravel": ("a.php", lambda m: f"'key' => env('APP_KEY', 'base64:{m.b64(32)}'),\n"),
        "typescript": ("a.ts", lambda m: f"const accessToken: string = '{m.word()}';\n"),
        "kotlin": ("A.kt", lambda m: f'val clientSecret = "{m.word()}"\n'),
        "rust": ("a.rs", lambda m: f'const API_KEY: &str = "{m.word()}";\n'),
        "swift": ("A.swift", lambda m: f'let apiKey = "{m.word()}"\n'),
        "scala": ("A.scala", lambda m: f'  val dbPassword = "{m.word()}"\n'),
        "elixir": (
            "config.exs",
            lambda m: f'config :shop, Shop.Repo, username: "app", password: "{m.word()}"\n',
        ),
        "perl": ("a.pl", lambda m: f"my $password = '{m.word()}';\n"),
        "lua": ("a.lua", lambda m: f'local auth_token = "{m.word()}"\n'),
        "gradle": ("build.gradle", lambda m: f'storePassword "{m.word()}"\nkeyAlias "k"\n'),
        "gradle.properties": (
            "gradle.properties",
            lambda m: f"signing.password={m.word()}\norg.gradle.daemon=true\n",
        ),
        "php array": (
            "database.php",
            lambda m: f"<?php return ['username' => 'app', 'password' => '{m.word()}'];\n",
        ),
        "php variable": ("a.php", lambda m: f'$db_pass = "{m.word()}";\n'),
        "c define": (
            "wifi.h",
            lambda m: f'#define WIFI_SSID "shop"\n#define WIFI_PASSWORD "{m.word()}"\n',
        ),
        "powershell env": ("a.ps1", lambda m: f'$env:API_KEY = "{m.word()}"\n'),
        "powershell secure": (
            "a.ps1",
            lambda m: f'$p = ConvertTo-SecureString "{m.word()}" -AsPlainText -Force\n',
        ),
        "batch": ("a.bat", lambda m: f"@echo off\nset DB_PASSWORD={m.plain()}\n"),
        "ini": ("app.ini", lambda m: f"[smtp]\nuser = app\npasswd = {m.word()}\n"),
        "cfg": ("app.cfg", lambda m: f"secret_key={m.word()}\n"),
        "makefile": ("Makefile", lambda m: f"DB_PASSWORD := {m.plain()}\n"),
        "systemd": ("a.service", lambda m: f"[Service]\nEnvironment=API_TOKEN={m.plain()}\n"),
        "systemd quoted": (
            "b.service",
            lambda m: f'[Service]\nEnvironment="DB_PASSWORD={m.plain()}" "MODE=x"\n',
        ),
        "github actions": (
            "ci.yml",
            lambda m: f"jobs:\n  a:\n    env:\n      DEPLOY_TOKEN: {m.plain()}\n",
        ),
        "gitlab ci": (
            ".gitlab-ci.yml",
            lambda m: f'variables:\n  REGISTRY_PASSWORD: "{m.word()}"\n',
        ),
        "helm values": (
            "values.yaml",
            lambda m: f"postgresql:\n  auth:\n    postgresPassword: {m.word()}\n",
        ),
        "prometheus": (
            "prometheus.yml",
            lambda m: f"basic_auth:\n  username: prom\n  password: {m.word()}\n",
        ),
        "redis.conf": ("redis.conf", lambda m: f"port 6379\nrequirepass {m.word()}\n"),
        "wpa": (
            "wpa_supplicant.conf",
            lambda m: f'network={{\n  ssid="shop"\n  psk="{m.word()}"\n}}\n',
        ),
        "rabbitmq": (
            "rabbitmq.conf",
            lambda m: f"default_user = app\ndefault_pass = {m.plain()}\n",
        ),
        "mysql identified by": (
            "init.sql",
            lambda m: f"CREATE USER 'app'@'%' IDENTIFIED BY '{m.word()}';\n",
        ),
        "postgres role": (
            "init.sql",
            lambda m: f"ALTER ROLE app WITH LOGIN PASSWORD '{m.word()}';\n",
        ),
        "cloudformation": (
            "stack.yaml",
            lambda m: f"      MasterUsername: app\n      MasterUserPassword: {m.plain()}\n",
        ),
        "json escaped": (
            "a.json",
            lambda m: json.dumps({"body": json.dumps({"user": "app", "password": m.plain()})}),
        ),
        "environ": ("a.py", lambda m: f'os.environ["SECRET_KEY"] = "{m.word()}"\n'),
        "getenv with default": ("a.py", lambda m: f'key = os.getenv("API_KEY", "{m.word()}")\n'),
        "node default": (
            "a.js",
            lambda m: f"const secret = process.env.JWT_SECRET || '{m.word()}';\n",
        ),
        "shell default": ("a.sh", lambda m: f'DB_PASSWORD="${{DB_PASSWORD:-{m.plain()}}}"\n'),
        "comparison": ("a.py", lambda m: f'if token == "{m.plain()}":\n    allow()\n'),
        "comment": ("a.py", lambda m: f"# password: {m.plain()}\n"),
        "splunk hec": ("a.conf", lambda m: f"[http://hec]\ntoken = {m.uuid()}\n"),
        "fernet": ("a.py", lambda m: f'f = Fernet(b"{m.b64(32)}")\nfernet_key = "{m.b64(32)}"\n'),
        # Connection strings and addresses
        "amqp": (
            "a.rb",
            lambda m: f'conn = Bunny.new("amqps://app:{m.plain()}@mq.internal/%2F")\n',
        ),
        "ftp": ("a.sh", lambda m: f"lftp ftp://backup:{m.plain()}@ftp.example.org\n"),
        "pip index": (
            "requirements.in",
            lambda m: f"--extra-index-url https://ci:{m.plain()}@pypi.example.org/simple\n",
        ),
        "smtp": ("a.yml", lambda m: f"dsn: smtp://app:{m.plain()}@mail.example.org:587\n"),
        "clickhouse": ("a.py", lambda m: f'"clickhouse://default:{m.plain()}@ch:9000/x"\n'),
        "ldap": ("a.toml", lambda m: f'bind_dn = "cn=app"\nbind_password = "{m.word()}"\n'),
        "mssql in python": (
            "a.py",
            lambda m: f'C = "mssql+pyodbc://sa:{m.plain()}@db1/shop?driver=x"\n',
        ),
        "ado.net in xml": (
            "app.config",
            lambda m: (
                f'<add name="Main" connectionString="Data Source=db1;Initial Catalog=shop;User ID=app;Password={m.plain()}" />\n'
            ),
        ),
        "jdbc sqlserver": (
            "a.properties",
            lambda m: (
                f"url=jdbc:sqlserver://db1;databaseName=shop;user=app;password={m.plain()};encrypt=true\n"
            ),
        ),
        "url query": (
            "a.py",
            lambda m: f'get("https://api.example.org/v1?api_key={m.plain()}&x=1")\n',
        ),
        "token query": ("a.md", lambda m: f"https://hooks.example.org/run?token={m.alnum(32)}\n"),
        # XML
        "xml namespaced": (
            "a.xml",
            lambda m: f"<soap:Envelope><wsse:Password>{m.word()}</wsse:Password></soap:Envelope>\n",
        ),
        "maven": (
            "settings.xml",
            lambda m: (
                f"<server><id>x</id><username>ci</username>\n  <password>{m.word()}</password></server>\n"
            ),
        ),
        "tomcat": (
            "server.xml",
            lambda m: f'<Connector port="8443" keystoreFile="x" keystorePass="{m.plain()}"/>\n',
        ),
        "plist": (
            "Info.plist",
            lambda m: f"<dict>\n  <key>APISecret</key>\n  <string>{m.plain()}</string>\n</dict>\n",
        ),
        "android strings": (
            "strings.xml",
            lambda m: f'<string name="api_secret">{m.plain()}</string>\n',
        ),
        # Headers
        "token header": ("a.py", lambda m: f'headers = {{"Authorization": "Token {m.hex(40)}"}}\n'),
        "nginx basic": (
            "nginx.conf",
            lambda m: (
                f'proxy_set_header Authorization "Basic {b64encode(("app:" + m.plain()).encode()).decode()}";\n'
            ),
        ),
        "private-token": (
            "a.sh",
            lambda m: f'curl --header "PRIVATE-TOKEN: {m.plain()}" https://git.example.org\n',
        ),
        "fetch": (
            "a.ts",
            lambda m: f"fetch(u, {{ headers: {{ Authorization: `Bearer {m.alnum(48)}` }} }})\n",
        ),
        "cookie": (
            "a.http",
            lambda m: f"GET /\nCookie: sessionid={m.alnum(32)}; csrftoken={m.alnum(32)}\n",
        ),
        # Kubernetes and the like
        "k8s list": (
            "all.yaml",
            lambda m: (
                f"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata:\n    name: a\n  data:\n    a: {m.b64(24)}\n"
            ),
        ),
        "k8s json": (
            "secret.json",
            lambda m: json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "x"},
                    "data": {"k": m.b64(32)},
                },
                indent=1,
            ),
        ),
        "k8s second document": (
            "x.yaml",
            lambda m: (
                f"apiVersion: v1\nkind: ConfigMap\ndata:\n  a: b\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: q}}\nstringData:\n  pin: '{m.plain()}'\n"
            ),
        ),
        "docker auth": (
            "conf.json",
            lambda m: json.dumps(
                {
                    "auths": {
                        "registry.example.org": {
                            "auth": b64encode(("ci:" + m.word()).encode()).decode()
                        }
                    }
                },
                indent=1,
            ),
        ),
        "k8s env": ("deploy.yaml", lambda m: f"env:\n- name: DB_PASSWORD\n  value: {m.plain()}\n"),
        "k8s env quoted": (
            "deploy.yml",
            lambda m: f'        - name: API_TOKEN\n          value: "{m.word()}"\n',
        ),
        "from-literal": (
            "a.sh",
            lambda m: f"kubectl create secret generic db --from-literal=password={m.word()}\n",
        ),
        # Terraform
        "tf default first": (
            "v.tf",
            lambda m: (
                f'variable "api_token" {{\n  default     = "{m.plain()}"\n  description = "of the API"\n}}\n'
            ),
        ),
        "tf sensitive": (
            "v.tf",
            lambda m: f'variable "admin_pw" {{\n  sensitive = true\n  default = "{m.word()}"\n}}\n',
        ),
        "tf locals": ("l.tf", lambda m: f'locals {{\n  db_password = "{m.word()}"\n}}\n'),
        # Commands
        "redis-cli": ("a.sh", lambda m: f"redis-cli -h cache -a {m.plain()} ping\n"),
        "mongo": (
            "a.sh",
            lambda m: (
                f"mongosh --host db1 -u admin -p {m.plain()} --authenticationDatabase admin\n"
            ),
        ),
        "ldapsearch": (
            "a.sh",
            lambda m: f"ldapsearch -x -D cn=admin,dc=x -w {m.plain()} -b dc=x\n",
        ),
        "smbclient": ("a.sh", lambda m: f"smbclient //files/share -U app%{m.plain()}\n"),
        "helm login": (
            "a.sh",
            lambda m: f"helm registry login -u ci -p {m.plain()} registry.example.org\n",
        ),
        "wget": (
            "a.sh",
            lambda m: f"wget --user=app --password='{m.word()}' https://x.example.org/f\n",
        ),
        "az login": (
            "a.sh",
            lambda m: f"az login --service-principal -u http://app -p {m.plain()} --tenant x\n",
        ),
        "sqlcmd": ("a.sh", lambda m: f"sqlcmd -S db1 -U sa -P '{m.word()}' -Q 'select 1'\n"),
        "rabbitmqctl": ("a.sh", lambda m: f"rabbitmqctl add_user app {m.plain()}\n"),
        "htpasswd -b": ("a.sh", lambda m: f"htpasswd -bc users.txt app {m.plain()}\n"),
        "chpasswd": ("a.sh", lambda m: f"echo 'root:{m.plain()}' | chpasswd\n"),
        "openssl pass": (
            "a.sh",
            lambda m: f"openssl enc -aes-256-cbc -pass pass:{m.plain()} -in a -out b\n",
        ),
        "gpg passphrase": ("a.sh", lambda m: f"gpg --batch --passphrase {m.plain()} -d a.gpg\n"),
        "net user": ("a.bat", lambda m: f"net user admin {m.plain()} /add\n"),
        "mysql in dockerfile": (
            "Dockerfile",
            lambda m: f'RUN mysql -uroot -p"{m.word()}" -e "select 1"\n',
        ),
        "curl with user": (
            "a.md",
            lambda m: f"    curl --user 'app:{m.word()}' https://x.example.org\n",
        ),
        # Ansible
        "ansible extra": (
            "a.sh",
            lambda m: f"ansible-playbook site.yml -e ansible_become_password={m.plain()}\n",
        ),
        "ansible winrm": (
            "hosts",
            lambda m: (
                f"win1 ansible_connection=winrm ansible_user=Administrator ansible_password='{m.word()}'\n"
            ),
        ),
        "ansible ssh_pass": (
            "inventory.ini",
            lambda m: (
                f"db1 ansible_ssh_host=10.0.0.9 ansible_ssh_pass={m.word()} ansible_port=22\n"
            ),
        ),
        "ansible vars": (
            "main.yml",
            lambda m: f"mysql_root_password: {m.word()}\nmysql_port: 3306\n",
        ),
        "ansible module": (
            "tasks.yml",
            lambda m: f"- mysql_user: name=app password={m.plain()} priv=*.*:ALL\n",
        ),
        # Notebooks
        "notebook url": (
            "a.ipynb",
            lambda m: _notebook(
                f'engine = create_engine("postgresql://app:{m.plain()}@db1/shop")\n'
            ),
        ),
        "notebook magic": ("b.ipynb", lambda m: _notebook(f"%env API_KEY={m.plain()}\n")),
        "notebook bearer": (
            "c.ipynb",
            lambda m: _notebook(f'h = {{"Authorization": "Bearer {m.alnum(40)}"}}\n'),
        ),
        "notebook shell": ("d.ipynb", lambda m: _notebook(f"!mysql -u root -p{m.plain()} shop\n")),
        # Others
        "netrc in prose": (
            "a.md",
            lambda m: f"    machine x.example.org login app password {m.plain()}\n",
        ),
        "postman body": (
            "collection.json",
            lambda m: json.dumps({"variable": [{"key": "password", "value": m.plain()}]}, indent=1),
        ),
        "name and value": (
            "task.json",
            lambda m: json.dumps(
                {"environment": [{"name": "DB_PASSWORD", "value": m.plain()}]}, indent=1
            ),
        ),
        "http form": ("a.http", lambda m: f"POST /login\n\nusername=app&password={m.plain()}\n"),
        "haproxy": ("haproxy.cfg", lambda m: f"    stats auth admin:{m.plain()}\n"),
        "snmp": ("conf.txt", lambda m: f"enable secret 0 {m.plain()}\n"),
        "ipsec": ("ipsec.txt", lambda m: f'10.0.0.1 10.0.0.2 : PSK "{m.word()}"\n'),
        "test login": ("a.spec.ts", lambda m: f"cy.login('anna@example.org', '{m.word()}')\n"),
        "log": (
            "run.log",
            lambda m: f"2026-01-01 INFO connecting user=app password={m.plain()} host=db1\n",
        ),
    }
)


GOOD_TUNED = _forms(
    {
        # Names and references
        "tls secret name": (
            "ingress.yaml",
            lambda m: (
                "spec:\n  tls:\n  - hosts: [shop.example.org]\n    secretName: k8s-wildcard-tls\n"
            ),
        ),
        "secretKeyRef": (
            "deploy.yaml",
            lambda m: (
                "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      name: shop-db-credentials-v2\n      key: password\n"
            ),
        ),
        "imagePullSecrets": (
            "deploy.yaml",
            lambda m: "imagePullSecrets:\n- name: regcred-2024\nserviceAccountName: shop-sa1\n",
        ),
        "external secret": (
            "es.yaml",
            lambda m: (
                "kind: ExternalSecret\nspec:\n  data:\n  - secretKey: password\n    remoteRef:\n      key: prod/shop/db2\n      property: password\n"
            ),
        ),
        "sealed secret": (
            "sealed.yaml",
            lambda m: (
                f"apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: db\nspec:\n  encryptedData:\n    password: AgB{m.alnum(400)}\n"
            ),
        ),
        "sops": (
            "enc.yaml",
            lambda m: (
                f"password: ENC[AES256_GCM,data:{m.b64(18)},iv:{m.b64(32)},tag:{m.b64(16)},type:str]\nsops:\n  version: 3.8.1\n"
            ),
        ),
        "ansible vault": (
            "vault.yml",
            lambda m: (
                "db_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n"
                + "".join(f"  {m.hex(80)}\n" for _ in range(6))
            ),
        ),
        "k8s role": (
            "role.yaml",
            lambda m: (
                'rules:\n- apiGroups: [""]\n  resources: ["secrets", "configmaps"]\n  verbs: ["get"]\n  resourceNames: ["db-secret-1"]\n'
            ),
        ),
        "compose secrets": (
            "compose.yml",
            lambda m: (
                "services:\n  db:\n    environment:\n      POSTGRES_PASSWORD_FILE: /run/secrets/db_password1\nsecrets:\n  db_password1:\n    file: ./db_password1.txt\n"
            ),
        ),
        "arn": (
            "main.py",
            lambda m: (
                f'SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:{m.digits(12)}:secret:prod/db-{m.alnum(6)}"\n'
            ),
        ),
        "gcp secret name": (
            "a.py",
            lambda m: f'SECRET = "projects/{m.digits(12)}/secrets/db-password/versions/3"\n',
        ),
        # Variables and lookups
        "shell variable": (
            "a.sh",
            lambda m: 'mysql -u root -p"$DB_PASSWORD1" shop\nexport TOKEN="${API_TOKEN_V2}"\n',
        ),
        "compose variable": (
            "compose.yml",
            lambda m: "environment:\n  - POSTGRES_PASSWORD=${POSTGRES_PASSWORD_1:?missing}\n",
        ),
        "vault template": (
            "vars.yml",
            lambda m: (
                'db_password: "{{ vault_db_password_2 }}"\napi_key: \'{{ lookup("env", "API_KEY2") }}\'\n'
            ),
        ),
        "python env": (
            "a.py",
            lambda m: 'PASSWORD = os.environ["DB_PASSWORD_1"]\nTOKEN = os.getenv("API_TOKEN2")\n',
        ),
        "node env": (
            "a.js",
            lambda m: (
                "const apiKey = process.env.OPENAI_API_KEY_2;\nconst t = config.get('auth0.token1');\n"
            ),
        ),
        "go env": (
            "a.go",
            lambda m: 'password := os.Getenv("DB_PASSWORD_1")\nsecret := cfg.Secrets["db1"]\n',
        ),
        "actions secret": (
            "ci.yml",
            lambda m: (
                "env:\n  TOKEN: ${{ secrets.NPM_TOKEN_2 }}\n  AWS: ${{ secrets.AWS_SECRET_ACCESS_KEY }}\n"
            ),
        ),
        "terraform variable": (
            "main.tf",
            lambda m: (
                'password = var.db_password_v2\ntoken = data.vault_generic_secret.db1.data["token"]\n'
            ),
        ),
        "terraform empty default": (
            "v.tf",
            lambda m: (
                'variable "db_password" {\n  type = string\n  sensitive = true\n  default = ""\n}\n'
            ),
        ),
        "helm template": (
            "t.yaml",
            lambda m: (
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  password: {{ .Values.auth.password1 | b64enc | quote }}\n"
            ),
        ),
        "spring placeholder": (
            "application.yml",
            lambda m: "spring:\n  datasource:\n    password: ${DB_PASSWORD1:}\n",
        ),
        # Placeholders
        "your key": (
            "README.md",
            lambda m: 'export OPENAI_API_KEY="your-api-key-1234"\nAPI_KEY=<your_api_key_here>\n',
        ),
        "changeme": (
            "values.yaml",
            lambda m: "auth:\n  password: changeme\n  adminPassword: change-me-2024\n",
        ),
        "aws example": (
            "README.md",
            lambda m: (
                f"aws_access_key_id = AK{'IA'}IOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
            ),
        ),
        "dots": (
            "README.md",
            lambda m: (
                "curl -H 'Authorization: Bearer sk-...' https://api.example.org\ntoken: ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
            ),
        ),
        "weak url": (
            "README.md",
            lambda m: (
                "DATABASE_URL=postgres://user:password@localhost:5432/shop\nredis://:password@localhost\npostgresql://postgres:postgres@localhost/test\n"
            ),
        ),
        "test password": (
            "test_a.py",
            lambda m: (
                'client.login(username="anna", password="password123")\nUSER = {"password": "secret1"}\n'
            ),
        ),
        "bearer placeholder": (
            "a.py",
            lambda m: (
                'headers = {"Authorization": f"Bearer {token}"}\nh = {"Authorization": "Bearer test-token"}\n'
            ),
        ),
        # Hashes and identifiers
        "requirements": (
            "requirements.txt",
            lambda m: (
                f"secretstorage==3.3.3 \\\n    --hash=sha256:{m.hex(64)}\nkeyring==25.1 \\\n    --hash=sha256:{m.hex(64)}\n"
            ),
        ),
        "sri": (
            "a.html",
            lambda m: (
                f'<script src="https://cdn.example.org/x.js" integrity="sha384-{m.b64(48)}" crossorigin="anonymous"></script>\n'
            ),
        ),
        "uuids": (
            "a.json",
            lambda m: json.dumps(
                {"id": m.uuid(), "tenantId": m.uuid(), "clientId": m.uuid(), "key": m.uuid()},
                indent=1,
            ),
        ),
        "commits": (
            "CHANGELOG.md",
            lambda m: f"- Fix tokens ({m.hex(40)})\n- Rotate secret names ({m.hex(7)})\n",
        ),
        "image digest": (
            "a.yml",
            lambda m: (
                f"image: registry.example.org/auth@sha256:{m.hex(64)}\ntoken_image: x@sha256:{m.hex(64)}\n"
            ),
        ),
        "checksums": (
            "SHA256SUMS.txt",
            lambda m: f"{m.hex(64)}  keyring.tar.gz\n{m.hex(64)}  secret-tool.tar.gz\n",
        ),
        "bcrypt fixture": (
            "users.json",
            lambda m: json.dumps([{"user": "anna", "password_hash": f"$2b$12${m.alnum(53)}"}]),
        ),
        "md5 fixture": (
            "test_etag.py",
            lambda m: f'assert etag == "{m.hex(32)}"\nassert digest(b"") == "{m.hex(64)}"\n',
        ),
        # Public keys
        "ssh public": (
            "authorized.txt",
            lambda m: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{m.alnum(43)} anna@example.org\n",
        ),
        "certificate": (
            "ca.txt",
            lambda m: f"-----BEGIN CERTIFICATE-----\n{m.lines(20)}\n-----END CERTIFICATE-----\n",
        ),
        "public pem": (
            "a.py",
            lambda m: f'KEY = """-----BEGIN PUBLIC {KEY}\n{m.lines(6)}\n-----END PUBLIC {KEY}"""\n',
        ),
        # Code about secrets
        "schema": (
            "openapi.yaml",
            lambda m: (
                "password:\n  type: string\n  format: password\n  minLength: 12\n  example: hunter2\nbearerAuth:\n  type: http\n  scheme: bearer\n  bearerFormat: JWT\n"
            ),
        ),
        "i18n": (
            "de.json",
            lambda m: json.dumps(
                {
                    "password": "Passwort",
                    "forgot_password": "Passwort vergessen?",
                    "token_expired": "Token ist nach 24h abgelaufen",
                }
            ),
        ),
        "ddl": (
            "schema.sql",
            lambda m: (
                "CREATE TABLE users (\n  password VARCHAR(255) NOT NULL,\n  token CHAR(64) DEFAULT NULL,\n  api_key_2 TEXT\n);\n"
            ),
        ),
        "html form": (
            "login.html",
            lambda m: (
                '<input type="password" name="password1" id="password1" placeholder="Password" autocomplete="current-password">\n'
            ),
        ),
        "types": (
            "a.ts",
            lambda m: (
                "interface Login { password: string; token?: string | null; apiKey2: Secret<string>; }\n"
            ),
        ),
        "functions": (
            "a.py",
            lambda m: (
                "password = generate_password(length=32)\ntoken = secrets.token_urlsafe(32)\napi_key = get_secret('production/db2')\n"
            ),
        ),
        "header name": (
            "a.py",
            lambda m: (
                'API_KEY_HEADER = "X-API-Key-V2"\nTOKEN_URL = "https://login.example.org/oauth2/v2.0/token"\n'
            ),
        ),
        "token pattern": (
            "a.py",
            lambda m: 'PATTERN = re.compile(r"ghp_[A-Za-z0-9]{36}")\nKEY = r"AKIA[0-9A-Z]{16}"\n',
        ),
        "object keys": (
            "a.py",
            lambda m: 's3.put(key="uploads/2024/01/report-v2.pdf")\ncache_key = f"user:{id}:v2"\n',
        ),
        "tokenizer": (
            "special.json",
            lambda m: json.dumps(
                {
                    "bos_token": "<|begin_of_text|>",
                    "pad_token_id": 151643,
                    "max_tokens": 4096,
                    "token": "Ġthe",
                }
            ),
        ),
        # Found to be left out, and added
        "odd names": (
            "a.yaml",
            lambda m: (
                "tlsSecret: k8s-wildcard-tls\ntoken: oauth2-proxy-x509\npassword: i18n-labels-e2e\nsecret: argocd-initial-admin-secret\nauthSecret: s3-backup-creds\n"
            ),
        ),
        "json template": (
            "a.json",
            lambda m: json.dumps(
                {"password": "{{ password1 }}", "token": "#{TOKEN_1}#", "secret": "%SECRET_1%"}
            ),
        ),
        "crypto calls": (
            "a.py",
            lambda m: (
                'jwt.encode(payload, settings.SECRET_KEY, algorithm="HS256")\nhmac.new(key, body, "sha256")\nAES.new(key1, AES.MODE_GCM, nonce=nonce1)\n'
            ),
        ),
        "test auth": (
            "test_c.py",
            lambda m: (
                'requests.get(url, auth=("user", "password1"))\nclient.login("anna", "test-password-1")\n'
            ),
        ),
        "english": (
            "a.md",
            lambda m: (
                "The token is a 32-byte value; the secret was base64-encoded. A password to db1 comes from vault.\n"
            ),
        ),
        "css and keys": (
            "a.tsx",
            lambda m: (
                '<Trans i18nKey="auth.login.password2" /> <li key={`item-${id}-v2`} className="token-keyword2">\n'
            ),
        ),
    }
)

GOOD_HELD_BACK = _forms(
    {
        # Names and references
        "csi secret": (
            "spc.yaml",
            lambda m: (
                "kind: SecretProviderClass\nspec:\n  parameters:\n    keyvaultName: shop-kv-prod01\n    objects: |\n      array:\n        - objectName: db-password-2\n"
            ),
        ),
        "secret mount": (
            "pod.yaml",
            lambda m: (
                "volumes:\n- name: creds\n  secret:\n    secretName: shop-db-2024-creds\n    defaultMode: 0400\n"
            ),
        ),
        "envFrom": (
            "pod.yaml",
            lambda m: (
                "envFrom:\n- secretRef:\n    name: app-secrets-eu1\n- configMapRef:\n    name: app-config-eu1\n"
            ),
        ),
        "key vault reference": (
            "settings.json",
            lambda m: json.dumps(
                {
                    "Db:Password": "@Microsoft.KeyVault(SecretUri=https://shop-kv1.vault.azure.net/secrets/db-password/)"
                }
            ),
        ),
        "ssm parameter": (
            "task.json",
            lambda m: json.dumps(
                {
                    "secrets": [
                        {
                            "name": "DB_PASSWORD",
                            "valueFrom": f"arn:aws:ssm:eu-west-1:{m.digits(12)}:parameter/shop/db2/password",
                        }
                    ]
                }
            ),
        ),
        "vault path": (
            "app.hcl",
            lambda m: 'secret = "kv2/data/shop/prod1/db"\nrole = "shop-prod1"\n',
        ),
        "cert manager": (
            "cert.yaml",
            lambda m: (
                "kind: Certificate\nspec:\n  secretName: shop-example-org-tls-2\n  privateKey:\n    algorithm: RSA\n    size: 4096\n"
            ),
        ),
        "jenkins credentials": (
            "Jenkinsfile",
            lambda m: "environment {\n  DEPLOY_TOKEN = credentials('deploy-token-prod2')\n}\n",
        ),
        "onepassword": ("a.yml", lambda m: "password: op://Shop/prod-db-2/password\n"),
        "gitcrypt attributes": (
            "git.txt",
            lambda m: "secrets/** filter=git-crypt diff=git-crypt\n*.key2 filter=git-crypt\n",
        ),
        "systemd credentials": (
            "a.service",
            lambda m: (
                "[Service]\nLoadCredential=db_password1:/etc/shop/db_password1\nEnvironmentFile=/etc/shop/env2\n"
            ),
        ),
        "nginx files": (
            "nginx.conf",
            lambda m: (
                "ssl_certificate_key /etc/ssl/private/shop-2024.key;\nauth_basic_user_file /etc/nginx/htpasswd2;\n"
            ),
        ),
        "ssh config": (
            "ssh_config.txt",
            lambda m: (
                "Host db1\n  IdentityFile ~/.ssh/id_ed25519_shop2\n  PasswordAuthentication no\n"
            ),
        ),
        # Variables and lookups
        "ruby env": (
            "a.rb",
            lambda m: (
                "password = ENV.fetch('DB_PASSWORD_1')\nsecret_key_base: <%= ENV['SECRET_KEY_BASE'] %>\n"
            ),
        ),
        "php env": (
            "a.php",
            lambda m: "'password' => env('DB_PASSWORD_2', ''),\n$key = getenv('API_KEY_1');\n",
        ),
        "java env": (
            "A.java",
            lambda m: (
                'String password = System.getenv("DB_PASSWORD_1");\n@Value("${app.jwt.secret1}") private String secret;\n'
            ),
        ),
        "rust env": (
            "a.rs",
            lambda m: (
                'let token = std::env::var("API_TOKEN_2")?;\nlet key = settings.api_key2.clone();\n'
            ),
        ),
        "csharp config": (
            "A.cs",
            lambda m: (
                'var secret = Configuration["Auth:ClientSecret2"];\nvar cs = builder.Configuration.GetConnectionString("Main1");\n'
            ),
        ),
        "powershell env": (
            "a.ps1",
            lambda m: (
                "$password = $env:DB_PASSWORD_1\n$cred = Get-Credential -UserName 'app1'\n$s = ConvertTo-SecureString $Password2 -AsPlainText -Force\n"
            ),
        ),
        "batch variable": (
            "a.bat",
            lambda m: "set PASSWORD=%DB_PASSWORD_1%\nnet user admin %NEW_PASS2% /add\n",
        ),
        "make variable": (
            "Makefile",
            lambda m: "TOKEN ?= $(shell cat .token1)\nDB_PASSWORD := $(DB_PASSWORD_1)\n",
        ),
        "gitlab variable": (
            "ci.yml",
            lambda m: (
                'script:\n  - docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" "$CI_REGISTRY"\n  - curl --header "JOB-TOKEN: $CI_JOB_TOKEN" "$CI_API_V4_URL"\n'
            ),
        ),
        "curl variables": (
            "a.sh",
            lambda m: (
                'curl -u "$USER1:$PASS1" https://x.example.org\ncurl -H "Authorization: Bearer $(cat /run/token1)" x\n'
            ),
        ),
        "url variables": (
            "a.py",
            lambda m: (
                'URL = f"postgresql://{user}:{password1}@{host}/db"\nu = "mysql://${DB_USER}:${DB_PASS2}@db/x"\n'
            ),
        ),
        "printf url": (
            "a.go",
            lambda m: (
                'dsn := fmt.Sprintf("%s:%s@tcp(%s)/shop?parseTime=true", user, password, host1)\n'
            ),
        ),
        "azure pipeline": (
            "azure-pipelines.yml",
            lambda m: (
                "- script: ./deploy\n  env:\n    TOKEN: $(deployToken2)\n    SYSTEM_ACCESSTOKEN: $(System.AccessToken)\n"
            ),
        ),
        "ansible lookups": (
            "main.yml",
            lambda m: (
                "mysql_root_password: \"{{ lookup('password', '/tmp/mysql1 length=32') }}\"\nansible_become_password: \"{{ vault_become_pass_2 }}\"\n"
            ),
        ),
        "ansible inventory": (
            "hosts.ini",
            lambda m: (
                "[web]\nweb1 ansible_host=10.0.0.4 ansible_ssh_private_key_file=~/.ssh/id_web1 ansible_password={{ vault_web1_pass }}\n"
            ),
        ),
        "terraform random": (
            "main.tf",
            lambda m: (
                'resource "random_password" "db2" {\n  length = 32\n}\npassword = random_password.db2.result\n'
            ),
        ),
        "terraform null": (
            "v.tf",
            lambda m: (
                'variable "api_token" {\n  default = null\n  description = "Token of the API v2"\n}\n'
            ),
        ),
        "cdk": (
            "stack.ts",
            lambda m: (
                'credentials: rds.Credentials.fromSecret(secret1, "admin1"),\nsecretCompleteArn: props.secretArn2,\n'
            ),
        ),
        "cloudformation": (
            "stack.yaml",
            lambda m: (
                "MasterUserPassword: '{{resolve:secretsmanager:shop-db-2:SecretString:password}}'\nDbPassword:\n  Type: String\n  NoEcho: true\n  MinLength: 12\n"
            ),
        ),
        "notebook env": (
            "a.ipynb",
            lambda m: _notebook(
                'api_key = os.environ["OPENAI_API_KEY_2"]\n',
                'password = getpass.getpass("Password 1: ")\n',
            ),
        ),
        "k8s secret made of variables": (
            "secret.yaml",
            lambda m: (
                'apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\nstringData:\n  password: "${DB_PASSWORD_2}"\n  token: <replace-with-token-1>\n'
            ),
        ),
        "k8s config map": (
            "cm.yaml",
            lambda m: (
                f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\nbinaryData:\n  logo.bin: {m.b64(200)}\ndata:\n  password_policy: min-length-12\n"
            ),
        ),
        # Placeholders and documentation
        "angle brackets": (
            "README.md",
            lambda m: (
                "    infbox --token <token-1> --password <password>\n    curl -u <user>:<password> https://x\n"
            ),
        ),
        "stars": ("README.md", lambda m: 'password: "********"\nAPI_KEY=****************\n'),
        "capital placeholder": (
            "README.md",
            lambda m: (
                "OPENAI_API_KEY=YOUR_API_KEY_HERE\ntoken: INSERT_TOKEN_HERE_1\nsecret: REPLACE_ME_WITH_SECRET_2\n"
            ),
        ),
        "compose defaults": (
            "compose.yml",
            lambda m: (
                "environment:\n  POSTGRES_PASSWORD: postgres\n  MYSQL_ROOT_PASSWORD: root\n  MINIO_ROOT_PASSWORD: minioadmin\n"
            ),
        ),
        "curl in docs": (
            "api.md",
            lambda m: (
                "```\ncurl -u user:password -H 'X-Api-Key: your-key' https://api.example.org/v1\n```\nSend `Authorization: Bearer YOUR_ACCESS_TOKEN`.\n"
            ),
        ),
        "jwt words": (
            "auth.md",
            lambda m: (
                "A token has three parts: `header.payload.signature`, as `eyJhbGciOi...`. The secret is in `JWT_SECRET`.\n"
            ),
        ),
        "password rules": (
            "policy.md",
            lambda m: (
                "A password has 12 characters, of which 2 are digits. password: 12+ characters; token: 32 bytes\n"
            ),
        ),
        "fake in tests": (
            "test_b.py",
            lambda m: (
                'token = "fake-token-1"\nmonkeypatch.setenv("API_KEY", "test-api-key-1")\nSECRET_KEY = "not-a-secret-1"\n'
            ),
        ),
        "factory": (
            "factories.rb",
            lambda m: (
                'password { "Password1" }\npassword_confirmation { "Password1" }\ntoken { SecureRandom.hex(16) }\n'
            ),
        ),
        "java test": (
            "ATest.java",
            lambda m: (
                'new User("anna", "password1");\nwhen(repo.find("token-123")).thenReturn(x);\nuser.setPassword("testPassword1");\n'
            ),
        ),
        "mysql prompt": (
            "README.md",
            lambda m: (
                "mysql -u root -p shop1\nmysql -h db1 -u app --password shop\nssh -p 2222 root@db1\n"
            ),
        ),
        "ports": (
            "a.sh",
            lambda m: (
                "docker run -p 8080:80 -u 1000:1000 nginx:1.27\nnc -p 31337 host1\npytest -p no:cacheprovider -n 4\n"
            ),
        ),
        "cookie docs": (
            "api.md",
            lambda m: "Set-Cookie: session=abc123; HttpOnly\nX-CSRF-Token: {{ csrf_token() }}\n",
        ),
        # Hashes and identifiers
        "lock": (
            "deps.toml",
            lambda m: (
                f'[[package]]\nname = "secrecy"\nversion = "0.8.0"\nchecksum = "{m.hex(64)}"\n\n[[package]]\nname = "tokenizers"\nchecksum = "{m.hex(64)}"\n'
            ),
        ),
        "nix": (
            "pkg.nix",
            lambda m: (
                f'src = fetchFromGitHub {{ owner = "a"; repo = "keyring"; rev = "{m.hex(40)}"; hash = "sha256-{m.b64(32)}"; }};\n'
            ),
        ),
        "go sum in prose": (
            "notes.txt",
            lambda m: f"github.com/golang-jwt/jwt/v5 v5.2.1 h1:{m.b64(32)}\n",
        ),
        "sops config": (
            ".sops.yaml",
            lambda m: (
                f"creation_rules:\n  - path_regex: .*secret.*\n    age: age1{m.of('qpzry9x8gf2tvdw0s3jn54khce6mua7l', 58)}\n"
            ),
        ),
        "kms arn": (
            "a.tf",
            lambda m: (
                f'kms_key_id = "arn:aws:kms:eu-west-1:{m.digits(12)}:key/{m.uuid()}"\nkey_name = "alias/shop2"\n'
            ),
        ),
        "azure ids": (
            "main.bicepparam",
            lambda m: (
                f"param tenantId = '{m.uuid()}'\nparam keyVaultId = '/subscriptions/{m.uuid()}/resourceGroups/shop/providers/Microsoft.KeyVault/vaults/kv1'\n"
            ),
        ),
        "oauth client id": (
            "a.ts",
            lambda m: f"clientId: '{m.digits(12)}-{m.lower(32)}.apps.googleusercontent.com',\n",
        ),
        "etag": (
            "a.http",
            lambda m: (
                f'HTTP/1.1 200 OK\nETag: "{m.hex(32)}"\nX-Request-Id: {m.uuid()}\nContent-MD5: {m.b64(16)}\n'
            ),
        ),
        "webpack": (
            "asset-manifest.json",
            lambda m: json.dumps(
                {
                    "main.js": f"/static/main.{m.hex(8)}.js",
                    "auth.js": f"/static/auth-token.{m.hex(20)}.chunk.js",
                }
            ),
        ),
        "migration": (
            "0002_token.py",
            lambda m: (
                f'revision = "{m.hex(12)}"\ndown_revision = "{m.hex(12)}"\nop.add_column("users", sa.Column("api_token", sa.String(64)))\n'
            ),
        ),
        "snapshot": ("a.snap.txt", lambda m: f'exports[`token hash 1`] = `"{m.hex(64)}"`;\n'),
        "pbkdf2 fixture": (
            "fixture.json",
            lambda m: json.dumps(
                [
                    {
                        "model": "auth.user",
                        "fields": {"password": f"pbkdf2_sha256$720000${m.alnum(22)}${m.b64(32)}"},
                    }
                ]
            ),
        ),
        "argon2 fixture": (
            "seed.sql",
            lambda m: (
                f"INSERT INTO users VALUES (1, 'anna', '$argon2id$v=19$m=65536,t=3,p=4${m.alnum(22)}${m.alnum(43)}');\n"
            ),
        ),
        "git tree": (
            "tree.txt",
            lambda m: (
                f"100644 blob {m.hex(40)}\tsrc/auth/token.py\n100644 blob {m.hex(40)}\tsrc/secret.py\n"
            ),
        ),
        "cache key": (
            "ci.yml",
            lambda m: (
                "- uses: actions/cache@v4\n  with:\n    key: ${{ runner.os }}-pip-${{ hashFiles('**/requirements*.txt') }}\n    restore-keys: linux-pip-v2-\n"
            ),
        ),
        "pinned actions": (
            "ci.yml",
            lambda m: (
                f"- uses: actions/create-github-app-token@{m.hex(40)} # v1.11.0\n- uses: aws-actions/configure-aws-credentials@{m.hex(40)}\n"
            ),
        ),
        "trace ids": (
            "log.txt",
            lambda m: f"INFO auth trace_id={m.hex(32)} span_id={m.hex(16)} login ok\n",
        ),
        "colour tokens": (
            "tokens.json",
            lambda m: json.dumps(
                {"color-token-primary": f"#{m.hex(6)}", "spacing_token_2": "16px", "key": "ArrowUp"}
            ),
        ),
        "sha in python": (
            "a.py",
            lambda m: f'KNOWN = {{"secret_tool-1.0.tar.gz": "{m.hex(64)}"}}\n',
        ),
        # Public keys
        "ssh rsa": (
            "a.tf",
            lambda m: (
                f'public_key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ{m.alnum(340)} anna@x"\n'
            ),
        ),
        "known hosts": (
            "hosts.txt",
            lambda m: (
                f"git.example.org ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABB{m.alnum(85)}=\n"
            ),
        ),
        "pgp public": (
            "key.txt",
            lambda m: (
                f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{m.lines(20)}\n-----END PGP PUBLIC KEY BLOCK-----\n"
            ),
        ),
        "ca in yaml": (
            "webhook.yaml",
            lambda m: (
                f"clientConfig:\n  caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1J{m.b64(300)}\n"
            ),
        ),
        "certificate in json": (
            "a.json",
            lambda m: json.dumps(
                {"cert": f"-----BEGIN CERTIFICATE-----\n{m.lines(10)}\n-----END CERTIFICATE-----\n"}
            ),
        ),
        "jwk public": (
            "jwks.json",
            lambda m: json.dumps(
                {
                    "keys": [
                        {
                            "kty": "RSA",
                            "kid": m.hex(20),
                            "use": "sig",
                            "n": m.url64(256),
                            "e": "AQAB",
                        }
                    ]
                }
            ),
        ),
        "wireguard peer": (
            "wg.conf",
            lambda m: f"[Peer]\nPublicKey = {m.b64(32)}\nAllowedIPs = 10.8.0.2/32\n",
        ),
        "minisign": (
            "a.txt",
            lambda m: f"untrusted comment: minisign public key {m.upper(16)}\nRW{m.alnum(54)}\n",
        ),
        # Code about secrets
        "go struct": (
            "a.go",
            lambda m: (
                'type C struct {\n\tPassword string `yaml:"password" env:"DB_PASSWORD_1"`\n\tTokenTTL time.Duration `default:"24h0m0s"`\n}\n'
            ),
        ),
        "pydantic": (
            "a.py",
            lambda m: (
                'class S(BaseSettings):\n    api_key: SecretStr = Field(alias="API_KEY_V2")\n    token_url: str = "https://auth.example.org/v1/token"\n'
            ),
        ),
        "argparse": (
            "a.py",
            lambda m: (
                'parser.add_argument("--api-key", help="key of the API, see https://x.example.org/keys2", default=None)\nparser.add_argument("-p", "--password-file")\n'
            ),
        ),
        "sql query": (
            "a.py",
            lambda m: (
                'db.execute("SELECT id, password_hash FROM users WHERE token = %s AND key2 = ?", (token,))\n'
            ),
        ),
        "regex": (
            "a.js",
            lambda m: "const PASSWORD_RE = /^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d@$!%*?&]{12,64}$/;\n",
        ),
        "enum": (
            "A.java",
            lambda m: (
                'enum Kind { API_KEY("api_key_v2"), ACCESS_TOKEN("access_token_v1"), PASSWORD("password_sha256") }\n'
            ),
        ),
        "react": (
            "Login.tsx",
            lambda m: (
                '<PasswordField label={t("password1")} value={password} onChange={(e) => setPassword2(e.target.value)} error={errors.password?.message} />\n'
            ),
        ),
        "css": (
            "a.css",
            lambda m: (
                "input[type=password].field2 { background: url(data:image/png;base64,iVBORw0KGgo=); }\n.token-2xl { margin: 4px }\n"
            ),
        ),
        "graphql": (
            "a.graphql",
            lambda m: (
                "mutation Login($password: String!) { login(password: $password) { accessToken expiresIn2 } }\n"
            ),
        ),
        "proto": (
            "a.proto",
            lambda m: (
                "message Login {\n  string password = 1;\n  bytes token_sha256 = 2;\n  string api_key_v2 = 3;\n}\n"
            ),
        ),
        "django": (
            "a.py",
            lambda m: (
                "AUTH_PASSWORD_VALIDATORS = [{'NAME': 'django.contrib.auth.password_validation.MinimumLengthValidator'}]\nPASSWORD_HASHERS = ['django.contrib.auth.hashers.PBKDF2PasswordHasher']\n"
            ),
        ),
        "c code": (
            "a.c",
            lambda m: (
                'if (key == NULL) return -EINVAL;\nstatic const char *pass_prompt = "Enter passphrase for key1: ";\nkey_len = EVP_CIPHER_key_length(EVP_aes_256_gcm());\n'
            ),
        ),
        "aes tables": (
            "aes.h",
            lambda m: (
                "static const uint8_t sbox[] = { "
                + ", ".join(f"0x{m.hex(2)}" for _ in range(64))
                + " };\n#define AES_KEY_LEN_256 32\n"
            ),
        ),
        "keyboard": (
            "keys.ts",
            lambda m: 'bind({ key: "ctrl+shift+p", command: "workbench.action.showCommands2" });\n',
        ),
        "base64 image": (
            "a.html",
            lambda m: f'<img alt="key" src="data:image/png;base64,{m.b64(300)}">\n',
        ),
        "feature flags": (
            "flags.yaml",
            lambda m: (
                "enable_token_auth_v2: true\npassword_login_2fa: false\nsecret_rotation_days: 90\nauth_backend: ldap3\n"
            ),
        ),
        "kubectl docs": (
            "ops.md",
            lambda m: (
                "kubectl create secret generic db2 --from-file=password=./password1.txt\nkubectl get secret db2 -o jsonpath='{.data.password}' | base64 -d\n"
            ),
        ),
        "alembic url": (
            "alembic.ini",
            lambda m: (
                "sqlalchemy.url = driver://user:pass@localhost/dbname\nkey_prefix = shop_v2\n"
            ),
        ),
        "geo": (
            "a.json",
            lambda m: json.dumps(
                {
                    "place_key": f"geo:{m.digits(2)}.{m.digits(6)},{m.digits(2)}.{m.digits(6)}",
                    "s3_key": "2024/06/30/part-00001.parquet",
                }
            ),
        ),
        "changelog": (
            "CHANGELOG.md",
            lambda m: (
                "## 2.4.0\n- Token refresh: retries after 30s (#1234)\n- api_key=v2 keys are accepted, password=false too\n"
            ),
        ),
        "our own docs": (
            "keys.md",
            lambda m: (
                "A key begins with `sk-infbox-`, as `sk-infbox-…`; infbox-keys knows its SHA-256 digest alone.\n"
            ),
        ),
    }
)
